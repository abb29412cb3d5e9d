"""Every request is one span, one log line and one observation of the RED metrics (rate, errors, duration)."""

import time

import structlog
from opentelemetry import trace
from opentelemetry.propagate import extract
from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger()
tracer = trace.get_tracer("dotmac.http")

REQUESTS = Histogram(
    "dotmac_http_request_duration_seconds",
    "Time to answer a request, by route.",
    ["service", "method", "route", "status"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
_QUIET = ("/health/", "/metrics")


class Observation:
    """ASGI middleware that continues the caller's trace."""

    def __init__(self, app: ASGIApp, service: str) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(_QUIET):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        status = 500
        started = time.perf_counter()

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        method = scope["method"]
        with tracer.start_as_current_span(
            method,
            context=extract(headers),
            kind=trace.SpanKind.SERVER,
            attributes={"http.request.method": method},
        ) as span:
            try:
                await self._app(scope, receive, observed)
            finally:
                # The matched route, not the path: a path would make a metric per id.
                route = getattr(scope.get("route"), "path", "unmatched")
                span.update_name(f"{method} {route}")
                span.set_attribute("http.response.status_code", status)
                seconds = time.perf_counter() - started
                REQUESTS.labels(self._service, method, route, status).observe(seconds)
                log.info(
                    "request",
                    method=method,
                    path=scope["path"],
                    status=status,
                    milliseconds=round(seconds * 1000, 2),
                    request_id=headers.get("x-request-id"),
                )
