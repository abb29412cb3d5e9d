"""A webhook receiver as somebody would run it: it verifies with the Standard Webhooks library, and fails on demand."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

from deploy.stack.processes import free_port

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def accepting(_request: web.Request) -> web.StreamResponse:
    return web.Response(status=204)


def answering(status: int, text: str = "", **headers: str) -> Behaviour:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text=text, headers=headers)

    return answer


@dataclass
class Receiver:
    """Keeps what it was sent, in order; `behaviour` answers."""

    port: int
    secret: str = ""
    behaviour: Behaviour = accepting
    events: list[dict[str, Any]] = field(default_factory=list)
    """What was accepted, verified by `secret`."""
    attempts: list[str] = field(default_factory=list)
    """The id of each message, accepted or not."""
    signatures: list[str] = field(default_factory=list)
    unverified: int = 0
    at_once: int = 0
    most_at_once: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]

    async def _hook(self, request: web.Request) -> web.StreamResponse:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            body = await request.read()
            self.attempts.append(request.headers["webhook-id"])
            self.signatures.append(request.headers["webhook-signature"])
            assert request.content_type == "application/cloudevents+json"
            event = json.loads(body)
            assert event["id"] == request.headers["webhook-id"]
            if self.secret:
                try:
                    Webhook(self.secret).verify(body, dict(request.headers))
                except WebhookVerificationError:
                    self.unverified += 1
                    return web.Response(status=401)
            answer = await self.behaviour(request)
            if answer.status < 300:
                self.events.append(event)
            return answer
        finally:
            self.at_once -= 1


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Run one on this machine."""
    made = Receiver(free_port())
    app = web.Application()
    app.router.add_post("/hook", made._hook)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", made.port).start()
    try:
        yield made
    finally:
        await runner.cleanup()


async def never(_request: web.Request) -> web.StreamResponse:
    """Take a request and say nothing."""
    await asyncio.Event().wait()
    raise AssertionError
