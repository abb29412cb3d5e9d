"""Traces: one tree for a request and all that follows from it, through the gateway, services, outbox and Kafka.

A place in a trace is a W3C `traceparent`. It is handed on always, so that logs can be found by their trace, and it
costs nothing; spans, which cost, are made by hand and only where someone asked for them: at the edge the ratio decides,
everywhere else the caller's flag. Where there is no collector, or the flag says no, no span object exists.
"""

import atexit
import contextlib
import random
import re
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import NamedTuple

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from chassis.telemetry.otlp import Exporter
from chassis.telemetry.redaction import redacted

Attributes = Mapping[str, str | int]

TENANT = "dotmac.tenant.id"
"""The attribute that holds the tenant. Ids belong in spans and logs, never in a metric's labels."""

_TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_FLAGS = TraceFlags(TraceFlags.SAMPLED)
_OK, _LONGEST_REASON = Status(), 500
_RESOURCE = Resource.get_empty()  # the exporter knows the process
_MOST_WAITING, _MOST_AT_ONCE = 4_096, 1_024
"""Spans that wait to be sent at most, more are dropped; and those sent in one request."""


class Span:
    """A piece of work under way that is traced. It is recorded when it is ended.

    Made by hand and handed to the SDK's processor at its end: the SDK's own tracer takes 16 µs for what this does in 3.
    """

    __slots__ = ("_attributes", "_id", "_kind", "_name", "_parent", "_started_ns", "_status", "_trace")

    def __init__(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        trace: str,
        parent: str | None = None,
        started_ns: int | None = None,
    ) -> None:
        self._name = name
        self._kind = kind
        self._attributes = dict(attributes)
        self._trace = trace
        self._parent = parent
        self._id = _random_id(64)
        self._started_ns = started_ns or time.time_ns()
        self._status = _OK

    @property
    def traceparent(self) -> str:
        """The span's place in its trace, for what follows from it."""
        return f"00-{self._trace}-{self._id:016x}-01"

    def update_name(self, name: str) -> None:
        """Give it a name that was not known when it began."""
        self._name = name

    def set_attribute(self, name: str, value: str | int) -> None:
        """Set an attribute, as OpenTelemetry names it."""
        self._attributes[name] = value

    def fail(self, kind: str, reason: str = "") -> None:
        """Note that its work failed: the kind of error, and what it says."""
        self._attributes["error.type"] = kind
        self._status = Status(StatusCode.ERROR, redacted(reason)[:_LONGEST_REASON])

    def end(self) -> None:
        """Record it. Work that is undone leaves its span without an end: then it never was, as the work."""
        if _processor is None:
            return
        trace = int(self._trace, 16)
        parent = SpanContext(trace, int(self._parent, 16), True, _FLAGS) if self._parent else None
        _processor.on_end(
            ReadableSpan(
                self._name,
                SpanContext(trace, self._id, False, _FLAGS),
                parent,
                _RESOURCE,
                self._attributes,
                kind=self._kind,
                status=self._status,
                start_time=self._started_ns,
                end_time=time.time_ns(),
            )
        )


class _Place(NamedTuple):
    traceparent: str | None
    span: Span | None


_SAMPLED = tuple("13579bdf")
"""How a `traceparent` ends whose lowest flag is set."""
_NOWHERE = _Place(None, None)
_PLACE: ContextVar[_Place] = ContextVar("trace", default=_NOWHERE)
_processor: BatchSpanProcessor | None = None
_exporter: Exporter | None = None
_ratio = 0.0


def configure(service: str, otlp_endpoint: str | None, ratio: float) -> None:
    """Send the spans of this process to `<otlp_endpoint>/v1/traces`; without an endpoint make none."""
    global _exporter, _processor, _ratio
    stop()
    if otlp_endpoint:
        _exporter = Exporter(otlp_endpoint, {"service.name": f"dotmac-{service}"})
        _processor = BatchSpanProcessor(_exporter, _MOST_WAITING, max_export_batch_size=_MOST_AT_ONCE)
        _ratio = ratio
        atexit.register(stop)


def flush() -> None:
    """Send the spans that have ended."""
    if _processor is not None:
        _processor.force_flush()


def stop() -> None:
    """Send what has ended, and make no more spans."""
    global _processor, _ratio
    stopping, _processor, _ratio = _processor, None, 0.0
    if stopping is not None and _exporter is not None:
        _exporter.closing = True
        stopping.shutdown()  # type: ignore[no-untyped-call]


def here() -> str | None:
    """Return the `traceparent` of what runs now, to hand on; None outside of any request, event or job."""
    return _PLACE.get().traceparent


def sampled(traceparent: str | None) -> bool:
    """Whether this process makes spans below `traceparent`."""
    return _processor is not None and traceparent is not None and traceparent.endswith(_SAMPLED)


def unsampled(traceparent: str) -> str:
    """Return the same place in the trace for work that leaves no spans."""
    return f"{traceparent[:-2]}00"


def start(
    name: str, kind: SpanKind, parent: str | None, attributes: Attributes, *, started_ns: int | None = None
) -> Span | None:
    """Start a span below `parent`, or return None if that is not sampled, or no `traceparent` at all."""
    if not sampled(parent) or (match := _TRACEPARENT.fullmatch(parent or "")) is None:
        return None
    return Span(name, kind, attributes, match[1], match[2], started_ns)


def annotate(name: str, value: str | int) -> None:
    """Set an attribute of the span of what runs now, if it has one."""
    span = _PLACE.get().span
    if span is not None:
        span.set_attribute(name, value)


@contextlib.contextmanager
def within(traceparent: str | None, span: Span | None = None) -> Iterator[None]:
    """Say where in which trace the work inside belongs."""
    token = _PLACE.set(_Place(traceparent, span))
    try:
        yield
    finally:
        _PLACE.reset(token)


@contextlib.contextmanager
def span(
    name: str, attributes: Attributes, *, parent: str | None = None, kind: SpanKind = SpanKind.INTERNAL
) -> Iterator[Span | None]:
    """Make a span of the work inside, below `parent` or where the work runs now; gives None if not sampled."""
    above = parent or here()
    made = start(name, kind, above, attributes)
    with within(made.traceparent if made else above, made):
        if made is None:
            yield None
            return
        try:
            yield made
        except BaseException as error:
            made.fail(type(error).__name__, str(error))
            raise
        finally:
            made.end()


@contextlib.contextmanager
def request(traceparent: str | None, method: str, *, edge: bool = False) -> Iterator[Span | None]:
    """Make the span of a request that this process serves; gives None if it is not sampled. See `begin`."""
    place, made = begin(traceparent, method, edge=edge)
    with within(place, made):
        try:
            yield made
        except BaseException as error:
            if made is not None:
                made.fail(type(error).__name__, str(error))
            raise
        finally:
            if made is not None:
                made.end()


def begin(traceparent: str | None, method: str, *, edge: bool = False) -> tuple[str, Span | None]:
    """Return where in which trace a request that this process serves belongs, and its span if it is sampled.

    edge: the caller is a stranger. Its trace is continued, but whether we spend spans on it is not its to say.
    """
    above = traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None
    if above is None and random.random() >= _ratio:
        drawn = f"{_random_id(192):048x}"
        return f"00-{drawn[:32]}-{drawn[32:]}-00", None
    attributes: Attributes = {"http.request.method": method}
    if above is None:
        made = Span(method, SpanKind.SERVER, attributes, f"{_random_id(128):032x}")
        return made.traceparent, made
    if edge:
        above = f"{above[:-2]}{'01' if random.random() < _ratio else '00'}"
    below = start(method, SpanKind.SERVER, above, attributes)
    return (below.traceparent if below else above), below


def _random_id(bits: int) -> int:
    return random.getrandbits(bits) or 1  # zero is no id
