"""An OTLP/HTTP collector that keeps what it receives, so that tests see spans as a real one would."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan


@dataclass(frozen=True)
class Span:
    """A span as it was received; ids in hexadecimal, times in ns."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    start: int
    end: int
    attributes: dict[str, Any]
    failed: bool
    reason: str


class Collector:
    """What was received so far, and where to send more."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._requests: list[bytes] = []
        self._spans: list[Span] = []
        self._lock = threading.Lock()

    def take(self, request: bytes) -> None:
        """Keep what came; it is read when somebody looks at it, since of most of it nobody does."""
        with self._lock:
            self._requests.append(request)

    @property
    def spans(self) -> list[Span]:
        with self._lock:
            for request in self._requests:
                self._spans += [
                    _span(resource.resource, span)
                    for resource in ExportTraceServiceRequest.FromString(request).resource_spans
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
            self._requests.clear()
            return list(self._spans)

    def trace(self, trace_id: str) -> list[Span]:
        """Return a trace's spans by the time at which they began."""
        return sorted((span for span in self.spans if span.trace == trace_id), key=lambda span: span.start)


def _span(resource: Any, span: ProtoSpan) -> Span:
    service = next(item.value.string_value for item in resource.attributes if item.key == "service.name")
    return Span(
        service=service,
        name=span.name,
        kind=ProtoSpan.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes={item.key: getattr(item.value, item.value.WhichOneof("value")) for item in span.attributes},
        failed=span.status.code == 2,
        reason=span.status.message,
    )


def tree(spans: list[Span]) -> list[str]:
    """Return a trace as lines, each child below its parent and further in: `service: name`."""
    children: dict[str, list[Span]] = {}
    for span in spans:
        children.setdefault(span.parent, []).append(span)
    ids = {span.id for span in spans}

    def lines(parent: str, depth: int) -> Iterator[str]:
        for span in sorted(children.get(parent, ()), key=lambda span: (span.name, span.service)):
            yield f"{'  ' * depth}{span.service}: {span.name}"
            yield from lines(span.id, depth + 1)

    return [line for root in sorted(children.keys() - ids) for line in lines(root, 0)]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Receive spans on a free port while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                collector.take(body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        log_message: Callable[..., None] = lambda *_: None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    collector = Collector(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
