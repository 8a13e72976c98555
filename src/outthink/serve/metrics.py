"""Prometheus metrics, under the names that dashboards of the field know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from outthink.core.posterior import Posterior
from outthink.engine.thread import EngineThread
from outthink.serve.gate import Gate

PREFIX, OWN = "vllm:", "outthink:"
_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
_OWN_NAMES = frozenset(
    ["num_sequences_running", "num_sequences_waiting", "num_gangs", "longest_wait_steps", "decoded_tokens",
     "recomputed_tokens", "gangs_preempted", "requests_refused"]
)  # fmt: skip


class Metrics:
    """Counters of one server: times in seconds. See `EngineCollector` for what is read off the engine.

    What the field has a name for has that name and meaning, under ``vllm:``; what only we have is under ``outthink:``.
    """

    def __init__(self, thread: EngineThread, gate: Gate, model_name: str) -> None:
        self.registry, self._model = CollectorRegistry(), model_name
        self.registry.register(EngineCollector(thread, gate, model_name))
        self.finished = self._counter("request_success", "Completions, by how they ended.", "finished_reason")
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens of requests.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens of completions and of winning lines.")
        self.queue_time = self._seconds("request_queue_time_seconds", "From arrival to admission.")
        self.prefill_time = self._seconds("request_prefill_time_seconds", "From admission to the first token.")
        self.decode_time = self._seconds("request_decode_time_seconds", "From the first token to the last.")
        self.inference_time = self._seconds("request_inference_time_seconds", "From admission to the last token.")
        self.first_token = self._seconds("time_to_first_token_seconds", "From arrival to the first token.")
        self.between_tokens = self._seconds("inter_token_latency_seconds", "From one token of a line to its next.")
        self.between_tokens_old = self._seconds("time_per_output_token_seconds", "The same, under its older name.")
        self.per_token = self._seconds(
            "request_time_per_output_token_seconds",
            "Of a line: from its first token to its last, over those after one.",
        )
        self.whole = self._seconds("e2e_request_latency_seconds", "From arrival to the end, of requests that succeed.")
        self.request_prompt = self._sizes("request_prompt_tokens", "Prompt tokens of a request.")
        self.request_generation = self._sizes("request_generation_tokens", "Tokens of a request's completions.")
        self.params_n = self._sizes("request_params_n", "What requests ask for as n.")
        self.params_max_tokens = self._sizes("request_params_max_tokens", "What requests ask for as max_tokens.")
        self.failed = self._counter("requests_failed", "Requests answered with an error.", "status", own=True)
        self.search_tokens = self._counter("search_tokens", "Tokens sampled on all branches of searches.", own=True)
        self.verifier_tokens = self._counter("verifier_tokens", "Positions computed to judge lines.", own=True)
        self.verifier_calls = self._counter("verifier_calls", "Lines that were judged.", own=True)
        self.solves = self._counter(
            "solves", "Searches, by strategy and how they ended.", "strategy", "ended", own=True
        )
        self.solve_time = self._seconds("solve_time_seconds", "Of a search, from its begin to its end.", own=True)

    def text(self) -> bytes:
        """The exposition, as `/metrics` returns it."""
        return generate_latest(self.registry)

    def generated(self, n: int, max_tokens: int | None, prompt: int, completion: int) -> None:
        """Count a request whose completions are done: what it asked for, and its tokens."""
        self.params_n.observe(n)
        if max_tokens is not None:
            self.params_max_tokens.observe(max_tokens)
        self.prompt_tokens.inc(prompt)
        self.generation_tokens.inc(completion)
        self.request_prompt.observe(prompt)
        self.request_generation.observe(completion)

    def searched(self, strategy: str, posterior: Posterior) -> None:
        """Count a search that came to its end."""
        bill, line = posterior.cost, posterior.best_line
        self.solves.labels(strategy, posterior.stopped).inc()
        self.solve_time.observe(bill.seconds)
        self.search_tokens.inc(bill.decoded)
        self.verifier_tokens.inc(bill.verifier_tokens)
        self.verifier_calls.inc(bill.verifier_calls)
        self.prompt_tokens.inc(bill.prefilled + bill.cached)
        if line is not None and line.thought is not None:
            self.generation_tokens.inc(sum(thought.tokens for thought in line.thought.line()))

    def _counter(self, name: str, help: str, *labels: str, own: bool = False) -> Any:
        made = Counter((OWN if own else PREFIX) + name, help, ("model_name", *labels), registry=self.registry)
        return _Labelled(made, self._model) if labels else made.labels(self._model)

    def _seconds(self, name: str, help: str, own: bool = False) -> Any:
        return self._histogram((OWN if own else PREFIX) + name, help, _SECONDS)

    def _sizes(self, name: str, help: str) -> Any:
        return self._histogram(PREFIX + name, help, _COUNTS)

    def _histogram(self, name: str, help: str, buckets: Sequence[float]) -> Any:
        made = Histogram(name, help, ("model_name",), buckets=buckets, registry=self.registry)
        return made.labels(self._model)


@dataclass(frozen=True)
class _Labelled:
    """A counter of which the model's name is already said."""

    counter: Counter
    model_name: str

    def labels(self, *values: str) -> Counter:
        return self.counter.labels(self.model_name, *values)


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
        counters["requests_refused"] = ("Requests answered 429: too many waited.", self._gate.num_refused)
        steps, positions = counters.pop("iterations"), counters.pop("iteration_tokens")
        for family, found in ((GaugeMetricFamily, gauges), (CounterMetricFamily, counters)):
            for name, (text, value) in found.items():
                metric = family((OWN if name in _OWN_NAMES else PREFIX) + name, text, labels=("model_name",))
                metric.add_metric([self._model], float(value))
                yield metric
        sizes = HistogramMetricFamily(PREFIX + "iteration_tokens_total", positions[0], labels=("model_name",))
        sizes.add_metric([self._model], [("+Inf", steps[1])], positions[1])
        yield sizes
        cache = self._thread.engine.cache
        info = GaugeMetricFamily(
            PREFIX + "cache_config_info", "The pages: how many, and positions in each.",
            labels=("model_name", "block_size", "num_gpu_blocks"),
        )  # fmt: skip
        info.add_metric([self._model, str(cache.page_size), str(cache.num_pages)], 1.0)
        yield info


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
            "num_gangs": ("Pieces of work that want something of the next step.", scheduler.num_gangs),
            "longest_wait_steps": ("Steps since the gang that waits longest was served.", scheduler.longest_wait),
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
            "gangs_preempted": ("Gangs sent back as a whole for want of pages.", scheduler.num_suspensions),
        }
        return gauges, counters

    return thread.call(read)  # type: ignore[return-value]
