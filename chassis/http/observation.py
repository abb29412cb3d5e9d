"""Every request is a log line, an observation of the RED metrics (rate, errors, duration), and a span if traced."""

import time
from collections.abc import Iterable

import structlog
from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.telemetry import busy, traces
from chassis.telemetry.traces import Span

log = structlog.get_logger()

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
REQUESTS = Histogram(
    "dotmac_http_request_duration_seconds",
    "Time to answer a request, by route.",
    ["service", "method", "route", "status"],
    buckets=SECONDS,
)
EVENT_STREAM = "text/event-stream; charset=utf-8"
"""Of an answer that goes on: what is measured of it is the time until it begins."""
_QUIET = ("/health/", "/metrics")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def known_method(method: str) -> str:
    """Return the method as a label: a client may make up others, a metric may not."""
    return method if method in _METHODS else "_OTHER"


def header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    """Return the first header of this name, which is in lower case."""
    return next((value.decode("latin-1") for key, value in headers if key == name), None)


def answered(span: Span, status: int) -> None:
    """Note on a request's span how it was answered; only 5xx is a failure of ours."""
    span.set_attribute("http.response.status_code", status)
    if status >= 500:
        span.fail(str(status))


class Observation:
    """ASGI middleware that continues the caller's trace."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_QUIET):
            await self._app(scope, receive, send)
            return
        status = 500
        started = time.perf_counter()
        seconds: float | None = None

        def answering_ends() -> None:
            nonlocal seconds
            if seconds is None:
                seconds = time.perf_counter() - started
                busy.HTTP.end()

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if header(message.get("headers", ()), b"content-type") == EVENT_STREAM:
                    answering_ends()  # it lasts as long as its client likes, which says nothing of us
            await send(message)

        method = known_method(scope["method"])
        with traces.request(header(scope["headers"], b"traceparent"), method) as span:
            busy.HTTP.begin()
            try:
                await self._app(scope, receive, observed)
            finally:
                # The matched route, not the path: a path would make a metric per id.
                route = getattr(scope.get("route"), "path", "unmatched")
                answering_ends()
                assert seconds is not None
                if span is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)
                    answered(span, status)
                REQUESTS.labels(self._service, method, route, status).observe(seconds)
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(seconds * 1000, 2),
                    request_id=header(scope["headers"], b"x-request-id"),
                )
