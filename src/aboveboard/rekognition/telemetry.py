"""What an operator sees of the requests: lines of JSON, metrics, traces. None has a face, a name, a collection or a secret in it."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector

from aboveboard.errors import Error, Unavailable
from aboveboard.rekognition.limits import Shares
from aboveboard.service.app import App

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


@dataclass
class Exchange:
    """One request and its answer, as far as it may be told: what a caller wrote is in it only where it is one of the known words."""

    request_id: str
    operation: str
    """Of Amazon's model, else empty."""
    client: str
    started_ns: int
    traceparent: str = ""
    key_id: str = ""
    """Of an access key that exists, else empty."""
    status: int = 200
    code: str = ""
    """AWS's error code, empty for an answer that is none."""
    rule: str = ""
    """Of a refusal."""
    limit: str = ""
    """Of what there was too much, where the code is ThrottlingException for this reason."""
    policy: str = ""
    """The pack that a look stood under, empty where there was none."""
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0


Listener = Callable[[Exchange], None]


def facts(exchange: Exchange) -> dict[str, str | float]:
    """A request's members in the log."""
    return {
        "request_id": exchange.request_id,
        "operation": exchange.operation,
        "access_key": exchange.key_id,
        "status": exchange.status,
        "code": exchange.code,
        "ms": round(1000 * exchange.seconds, 1),
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
        "client": exchange.client,
    }


def line(exchange: Exchange) -> None:
    """Log a request."""
    logging.getLogger("aboveboard.requests").info("request", extra={"facts": facts(exchange)})


class Lines(logging.Formatter):
    """A log record as one line of JSON. Of an exception its type and places are told, of other libraries' records the bare message:
    texts and arguments may quote what was sent."""

    def format(self, record: logging.LogRecord) -> str:
        is_ours = record.name.startswith("aboveboard")
        first = record.getMessage() if is_ours else next(iter(str(record.msg).splitlines()), "") if isinstance(record.msg, str) else ""
        told = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": first[:500],
            **vars(record).get("facts", {}),
        }
        if record.exc_info and (error := record.exc_info[1]):
            told["exception"] = type(error).__name__
            told["places"] = [f"{Path(one.filename).name}:{one.lineno} {one.name}" for one in traceback.extract_tb(error.__traceback__)]
        return json.dumps(told)


class Metrics:
    """Prometheus's view of one process that answers requests: counts and sizes, nothing by person, key or collection."""

    def __init__(self, bodies: Shares, workers: Shares) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter("aboveboard_requests", "Requests answered.", ("operation", "code"), registry=registry)
        self._seconds = Histogram(
            "aboveboard_request_seconds", "From a request's head to its answer.", ("operation",), buckets=SECONDS, registry=registry
        )
        self._looks = Counter("aboveboard_looks", "Comparisons and searches answered, each in the ledger.", ("policy",), registry=registry)
        self._refusals = Counter("aboveboard_refusals", "Requests refused by a rule.", ("rule",), registry=registry)
        self._throttled = Counter(
            "aboveboard_throttled", "Requests refused because there were too many: of what.", ("limit",), registry=registry
        )
        for name, text, read in (
            ("requests_in_progress", "Requests that a worker has.", lambda: workers.in_use),
            (
                "requests_waiting",
                "Requests that wait for their body to be read, or for a worker.",
                lambda: bodies.waiting + workers.waiting,
            ),
            ("request_bytes_in_use", "Bytes of request bodies in memory.", lambda: bodies.in_use),
        ):
            Gauge(f"aboveboard_{name}", text, registry=registry).set_function(read)
        ProcessCollector(registry=registry)

    def collect(self) -> list[Metric]:
        """All of them as they are now."""
        return list(self._registry.collect())

    def count(self, exchange: Exchange) -> None:
        """Count one request."""
        operation = exchange.operation or "unknown"
        self._requests.labels(operation, exchange.code or "OK").inc()
        self._seconds.labels(operation).observe(exchange.seconds)
        for counter, label in ((self._looks, exchange.policy), (self._refusals, exchange.rule), (self._throttled, exchange.limit)):
            if label:
                counter.labels(label).inc()


def of_deployment(app: App) -> CollectorRegistry:
    """What there is one of however many processes answer requests, for the process that holds the room for images."""
    registry = CollectorRegistry()
    for name, text, read in (
        ("images_in_use", "Images decoded now.", lambda: app.room.in_use()[0]),
        ("pixels_in_use", "Pixels of the images decoded now.", lambda: app.room.in_use()[1]),
        ("ledger_entries", "Entries in the ledger; NaN while it cannot be read.", lambda: _entries(app)),
    ):
        Gauge(f"aboveboard_{name}", text, registry=registry).set_function(read)
    return registry


class Gathered:
    """The metrics of several processes as one registry's, each sample with its process as the label `worker`; of none that is silent."""

    def __init__(self, processes: Mapping[str, Callable[[], Iterable[Metric]]]) -> None:
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for process, collect in self._processes.items():
            with suppress(Error):
                for family in collect():
                    one = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                    one.samples += [sample._replace(labels={**sample.labels, "worker": process}) for sample in family.samples]
        return families.values()


def _entries(app: App) -> float:
    try:
        return app.ledger.checkpoint()[0]
    except Error:
        return float("nan")


def traces() -> TracerProvider:
    """OpenTelemetry's SDK with its OTLP exporter, set up by its own OTEL_* variables; raises Unavailable where it is not installed."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Unavailable("--trace needs OpenTelemetry, which is not installed; run: pip install 'aboveboard[otel]'") from error
    provider = TracerProvider(resource=Resource({"service.name": "aboveboard"}).merge(OTELResourceDetector().detect()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def spans(provider: TracerProvider) -> Listener:
    """A span for each request, below the caller's if he sent a traceparent."""
    from opentelemetry.trace import SpanKind, StatusCode
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    tracer = provider.get_tracer("aboveboard")

    def listen(exchange: Exchange) -> None:
        above = TraceContextTextMapPropagator().extract({"traceparent": exchange.traceparent})
        told = {"rpc.system": "aws-api", "rpc.method": exchange.operation, "aboveboard.code": exchange.code or "OK"}
        span = tracer.start_span(exchange.operation or "unknown", above, SpanKind.SERVER, attributes=told, start_time=exchange.started_ns)
        if exchange.status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end(exchange.started_ns + int(exchange.seconds * 1e9))

    return listen
