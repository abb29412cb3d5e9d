"""The gateway, wired: its own few pages, and the data path for all else."""

import asyncio
from pathlib import Path

import aiohttp
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import Receive, Scope, Send

from chassis.http.problem import Problem
from chassis.http.responses import json
from gateway.documentation import PAGE, merged
from gateway.proxy import Proxy

_ASYNCAPI = Path(__file__).resolve().parent.parent / "contracts" / "asyncapi.yaml"


class Gateway:
    """The ASGI application."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._pages = {
            "/": self._index,
            "/docs": self._docs,
            "/openapi.json": self._openapi,
            "/asyncapi.yaml": self._asyncapi,
            "/health/live": self._live,
            "/health/ready": self._ready,
            "/metrics": self._metrics,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            page = self._pages.get(scope["path"]) if scope["method"] in ("GET", "HEAD") else None
            if page is None:
                await self._proxy(scope, receive, send)
                return
            try:
                response = await page(Request(scope, receive))
            except Problem as problem:
                response = problem.response()
            await response(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self._proxy.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._proxy.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _index(self, _request: Request) -> Response:
        pages = {"documentation": "/docs", "openapi": "/openapi.json", "asyncapi": "/asyncapi.yaml"}
        return json({"name": "DotMac Platform", **pages, "health": "/health/ready"})

    async def _docs(self, _request: Request) -> Response:
        return HTMLResponse(PAGE)

    async def _openapi(self, _request: Request) -> Response:
        return json(await merged(self._proxy.session, dict(self._proxy.upstreams)))

    async def _asyncapi(self, _request: Request) -> Response:
        return Response(await asyncio.to_thread(_ASYNCAPI.read_bytes), media_type="application/yaml")

    async def _live(self, _request: Request) -> Response:
        return json({"status": "alive"})

    async def _ready(self, _request: Request) -> Response:
        names = list(self._proxy.upstreams)
        results = await asyncio.gather(*(self._check(name) for name in names))
        well = all(result == "ok" for result in results)
        parts = dict(zip(names, results, strict=True))
        return json({"status": "ready" if well else "not ready", "checks": parts}, 200 if well else 503)

    async def _check(self, name: str) -> str:
        timeout = aiohttp.ClientTimeout(total=4)
        try:
            url = f"{self._proxy.upstreams[name]}/health/ready"
            async with self._proxy.session.get(url, timeout=timeout) as answer:
                return "ok" if answer.status == 200 else f"not ready ({answer.status})"
        except (aiohttp.ClientError, TimeoutError) as error:
            return str(error) or type(error).__name__

    async def _metrics(self, _request: Request) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
