"""The gateway's own pages: documentation, health, metrics. All else is passed on and never comes here."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from chassis.http.problem import Problem
from chassis.http.responses import json
from gateway.documentation import Content, Documentation, pages
from gateway.proxy import Proxy

Page = Callable[[Request], Awaitable[Response]]

PROXY = "proxy"
"""The name in the lifespan's state by which each connection finds what all share."""


class Gateway:
    """The ASGI application."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._session: aiohttp.ClientSession
        self._documentation: Documentation
        self._pages: dict[str, Page] = {
            "/": self._index,
            "/openapi.json": self._openapi,
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        try:
            response = await self._answer(Request(scope, receive))
        except Problem as problem:
            response = problem.response()
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        page = self._pages.get(path)
        if page is None:
            raise Problem(404, "not-found", f"There is nothing at {path}.")
        if request.method not in ("GET", "HEAD"):
            raise Problem(405, "method-not-allowed", f"{path} can only be read.", headers={"Allow": "GET, HEAD"})
        return await page(request)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        # What is asked for seldom keeps no connection, for which a service that is to stop would wait.
        pages_only = aiohttp.TCPConnector(force_close=True)
        timeout = aiohttp.ClientTimeout(total=4)
        async with aiohttp.ClientSession(connector=pages_only, timeout=timeout) as self._session:
            self._documentation = Documentation(self._session, self._proxy.upstreams)
            for path, content in (await asyncio.to_thread(pages)).items():
                self._pages[path] = _serving(content)
            await self._proxy.start()
            scope["state"][PROXY] = self._proxy
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await self._proxy.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _index(self, _request: Request) -> Response:
        return json(
            {
                "name": "DotMac Platform",
                "documentation": "/docs",
                "openapi": "/openapi.json",
                "events": "/docs/events",
                "asyncapi": "/asyncapi.yaml",
                "health": "/health/ready",
            }
        )

    async def _openapi(self, request: Request) -> Response:
        return (await self._documentation.openapi()).response(request)

    async def _live(self, _request: Request) -> Response:
        return json({"status": "alive"})

    async def _ready(self, _request: Request) -> Response:
        names = list(self._proxy.upstreams)
        results = await asyncio.gather(*(self._check(name) for name in names))
        well = all(result == "ok" for result in results)
        parts = dict(zip(names, results, strict=True))
        return json({"status": "ready" if well else "not ready", "checks": parts}, 200 if well else 503)

    async def _check(self, name: str) -> str:
        try:
            status, _ = await self._proxy.upstreams[name].fetch(self._session, "/health/ready")
            return "ok" if status == 200 else f"not ready ({status})"
        except (aiohttp.ClientError, TimeoutError) as error:
            return str(error) or type(error).__name__

    async def _metrics(self, _request: Request) -> Response:
        self._proxy.observation.tell()
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def _serving(content: Content) -> Page:
    async def page(request: Request) -> Response:
        return content.response(request)

    return page
