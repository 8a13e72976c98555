"""Prometheus metrics, under the names that dashboards of the field know."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from outthink.engine.thread import EngineThread
from outthink.serve.gate import Gate

PREFIX = "vllm:"
_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counters of one server. Histograms are in seconds; see `EngineCollector` for what is read off the engine."""

    def __init__(self, thread: EngineThread, gate: Gate, model_name: str) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(EngineCollector(thread, gate, model_name))
        self.finished = self._counter("request_success", "Finished requests.", "finished_reason")
        self.failed = self._counter("request_failure", "Requests answered with an error.", "status")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of finished requests.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens of finished answers.")
        self.search_tokens = self._counter("search_tokens", "Tokens sampled on all branches of finished searches.")
        self.queue_seconds = self._histogram("request_queue_time_seconds", "From arrival to admission.")
        self.first_token = self._histogram("time_to_first_token_seconds", "From arrival to the first token.")
        self.between_tokens = self._histogram("inter_token_latency_seconds", "Between two chunks of one stream.")
        self.whole = self._histogram("e2e_request_latency_seconds", "From arrival to the end.")

    def text(self) -> bytes:
        """The exposition, as `/metrics` returns it."""
        return generate_latest(self.registry)

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, help, labels, registry=self.registry)

    def _histogram(self, name: str, help: str) -> Histogram:
        return Histogram(PREFIX + name, help, buckets=_SECONDS, registry=self.registry)


class EngineCollector(Collector):
    """Gauges and counters that are read off the gate, and off the engine on its own thread, when asked for."""

    def __init__(self, thread: EngineThread, gate: Gate, model_name: str) -> None:
        self._thread, self._gate, self._model = thread, gate, model_name

    def describe(self) -> Iterable[Metric]:
        """Nothing, so that registering does not collect."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Every gauge and counter, of one moment of the engine."""
        gauges, counters = read_engine(self._thread)
        gauges |= {
            "num_requests_running": ("Requests that are worked on.", self._gate.num_running),
            "num_requests_waiting": ("Requests that wait for admission.", self._gate.num_waiting),
        }
        for family, found in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, (text, value) in found.items():
                metric = family(PREFIX + name, text, labels=("model_name",))
                metric.add_metric([self._model], float(value))
                yield metric


Readings = dict[str, tuple[str, float]]
"""Help text and value by name."""


def read_engine(thread: EngineThread) -> tuple[Readings, Readings]:
    """Gauges and counters by name, each with its help text. Blocks until the engine is between two steps."""
    engine = thread.engine

    def read() -> tuple[Readings, Readings]:
        stats, scheduler, cache = engine.stats, engine.scheduler, engine.cache
        used = cache.num_leased(scheduler.leases())
        gauges: Readings = {
            "num_sequences_running": ("Branches in the batch.", len(scheduler.running)),
            "num_sequences_waiting": ("Branches that wait for pages.", len(scheduler.waiting)),
            "kv_cache_usage_perc": ("Part of the pages that branches hold, 0 to 1.", used / cache.num_pages),
        }
        counters: Readings = {
            "iterations": ("Steps of the engine.", stats.steps),
            "iteration_tokens": ("Positions computed.", stats.positions),
            "recomputed_tokens": ("Positions computed again after preemption.", stats.recomputed),
            "decoded_tokens": ("Tokens sampled, on all branches.", stats.drawn),
            "prefix_cache_queries": ("Prompt positions asked for.", stats.prefilled + stats.cached),
            "prefix_cache_hits": ("Prompt positions found in the cache.", stats.cached),
            "num_preemptions": ("Branches sent back for want of pages.", scheduler.num_preemptions),
        }
        return gauges, counters

    return thread.call(read)  # type: ignore[return-value]
