"""OpenTelemetry traces, where they are asked for: a span a request, and below it queue, prefill, decode and solve."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from outthink.core.errors import UserError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True)
class Tracing:
    """Spans by ``tracer``, an OpenTelemetry tracer; None: there are none. No span holds a text of a client."""

    tracer: Any = None
    provider: Any = None

    @contextmanager
    def request(self, name: str, carrier: Mapping[str, str], **attributes: Any) -> Iterator[Any]:
        """A server's span around the block, below the caller's that ``carrier`` (traceparent, tracestate) names."""
        if self.tracer is None:
            yield None
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(dict(carrier))
        with self.tracer.start_as_current_span(
            name, context, SpanKind.SERVER, attributes, record_exception=False, set_status_on_exception=False
        ) as span:
            yield span

    def record(self, name: str, began: float, ended: float, **attributes: Any) -> None:
        """A span that is over, below the current one; times as `time.monotonic` gives them, in seconds."""
        if self.tracer is None:
            return
        offset = time.time() - time.monotonic()
        span = self.tracer.start_span(name, attributes=attributes, start_time=int((began + offset) * 1e9))
        span.end(end_time=int((ended + offset) * 1e9))

    def close(self) -> None:
        """Send what is not sent yet."""
        if self.provider is not None:
            self.provider.shutdown()


def open_tracing(asked: bool) -> Tracing:
    """Traces over OTLP/HTTP to where the OTEL_* variables say, if ``asked`` or if they name an endpoint; else none.

    Raises UserError where they are asked for and the packages are not installed.
    """
    if not asked and not any(os.environ.get(name) for name in ENDPOINTS):
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # pyright: ignore[reportMissingImports]
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        if not asked:
            return Tracing()
        raise UserError("Traces need two packages more: install them with pip install 'outthink[otel]'.") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "outthink"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider.get_tracer("outthink.serve"), provider)
