"""What every answer says to browsers and caches."""

from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    # Answers hold personal data unless they say otherwise. And whatever comes back is no page, so it may load nothing.
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_OVER_TLS = ((b"strict-transport-security", b"max-age=31536000; includeSubDomains"),)


def fields(scheme: str) -> tuple[tuple[bytes, bytes], ...]:
    """Return what an answer over `http` or `https` says unless it says something else by that name."""
    return _ALWAYS + _OVER_TLS if scheme == "https" else _ALWAYS


class SecurityHeaders:
    """ASGI middleware that adds what an answer does not say itself (OWASP REST security)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        wanted = fields(scope.get("scheme", "http"))

        async def completed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_missing(wanted, message.get("headers", ()))]
            await send(message)

        await self._app(scope, receive, completed)


def _missing(wanted: Iterable[tuple[bytes, bytes]], given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    said = {name.lower() for name, _ in given}
    return [(name, value) for name, value in wanted if name not in said]
