"""What stands before the gateway's own pages, and who may call it from a page of another origin."""

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from chassis.http.problem import Unforeseen
from chassis.http.requests import StrictHeads

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_ACCEPTED = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-Match",
    "Last-Event-ID",
    "X-Request-ID",
    "traceparent",
)
_EXPOSED = (
    "ETag",
    "Location",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "X-Request-ID",
    "Idempotency-Replayed",
)
_PREFLIGHT_SECONDS = 600


class Origins:
    """The origins whose pages may call the API (CORS). Tokens go in a header, so credentials of a browser never do."""

    def __init__(self, origins: str | None) -> None:
        """`origins`: an allow-list, comma-separated."""
        self._allowed = [origin.strip() for origin in (origins or "").split(",") if origin.strip()]

    def __bool__(self) -> bool:
        return bool(self._allowed)

    def guarded(self, app: ASGIApp) -> ASGIApp:
        """Wrap an application: malformed requests out, faults as problems, preflights answered."""
        app = StrictHeads(Unforeseen(app))
        if self._allowed:
            app = CORSMiddleware(
                app,
                allow_origins=self._allowed,
                allow_methods=_METHODS,
                allow_headers=_ACCEPTED,
                expose_headers=_EXPOSED,
                max_age=_PREFLIGHT_SECONDS,
            )
        return app

    def fields(self, origin: bytes | None) -> bytes:
        """Return the header fields, each with its line end, that let a page of `origin` read an answer."""
        if origin is None or origin.decode("latin-1") not in self._allowed:
            return b""
        exposed = ", ".join(_EXPOSED).encode()
        return (b"access-control-allow-origin: %b\r\naccess-control-expose-headers: %b\r\nvary: Origin\r\n") % (
            origin,
            exposed,
        )
