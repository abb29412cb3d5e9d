"""Where requests come from, for what is told of who did something."""

from starlette.types import ASGIApp, Receive, Scope, Send

from chassis.security.actors import acting, somebody


class Origin:
    """ASGI middleware that notes a request's client, whom its token may name later.

    The address is the connection's, or what one of TRUSTED_PROXIES says of it: of ours, the gateway.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        with acting(somebody(client[0] if client else None)):
            await self._app(scope, receive, send)
