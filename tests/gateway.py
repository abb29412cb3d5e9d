"""A gateway as it runs, on an event loop of its own, and a service behind it that does what a test tells it to."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import uvicorn
import uvloop

from chassis.ids import PLATFORM_TENANT
from chassis.security.tokens import TokenIssuer, TokenVerifier
from deploy.stack.processes import free_port
from gateway.placements import Placements
from gateway.server import served
from gateway.settings import GatewaySettings
from gateway.tenants import Tenants

ISSUER = TokenIssuer("a secret of the tests that is long enough for anybody")
PATH = "/api/v1/customers"


def token(subject: str = "somebody") -> str:
    return ISSUER.issue(subject, PLATFORM_TENANT, ["customers:read"])


@dataclass(frozen=True)
class Running:
    """A gateway that runs."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def client(self, bearer: str | None = None) -> AsyncIterator[aiohttp.ClientSession]:
        headers = {"Authorization": f"Bearer {bearer or token()}"}
        async with aiohttp.ClientSession(self.url, headers=headers, auto_decompress=False) as session:
            yield session

    async def raw(self, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send bytes over a connection of their own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        return reader, writer


@asynccontextmanager
async def gateway(**settings: object) -> AsyncIterator[Running]:
    """Run a gateway with uvloop in a thread, as its process does."""
    port = free_port()
    config = served(GatewaySettings(port=port, **settings), TokenVerifier(ISSUER.jwks()), Tenants(), Placements())  # type: ignore[arg-type]
    server = uvicorn.Server(config)

    def serve() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(server.serve())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        async with asyncio.timeout(10):
            while not server.started:
                assert thread.is_alive()
                await asyncio.sleep(0.005)
        yield Running(port)
    finally:
        server.should_exit = True
        await asyncio.to_thread(thread.join)


@dataclass
class Request:
    """What a service was asked."""

    line: str
    headers: list[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given == name.lower()]


Answer = Callable[["Service", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Service:
    """A service that speaks bytes: each connection gives the next request to `answer`, until it closes it."""

    port: int
    answer: Answer
    asked: list[Request] = field(default_factory=list)
    connections: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while not writer.is_closing():
                lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                fields = [line.split(": ", 1) for line in lines[1:-2]]
                self.asked.append(Request(lines[0], [(name.lower(), value) for name, value in fields]))
                await self.answer(self, reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the gateway has let go of the connection, or the test is over
        finally:
            self.tasks.discard(task)
            writer.close()


@asynccontextmanager
async def service(answer: Answer) -> AsyncIterator[Service]:
    made = Service(free_port(), answer)
    server = await asyncio.start_server(made._serve, "127.0.0.1", made.port)
    try:
        yield made
    finally:
        server.close()
        for task in made.tasks:
            task.cancel()
        await asyncio.gather(*made.tasks, return_exceptions=True)


def saying(*answers: bytes) -> Answer:
    """Answer with these bytes, one after the other, and the last from then on; with none, close."""
    left = list(answers)

    async def answer(_service: Service, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        said = left.pop(0) if len(left) > 1 else left[0]
        if said:
            writer.write(said)
        else:
            writer.close()

    return answer


def ok(body: bytes = b"ok", *fields: str) -> bytes:
    """Return an answer as bytes."""
    head = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", *fields, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def head(method: str, target: str, fields: Iterable[tuple[str, str]] = (), *, bearer: str | None = None) -> bytes:
    """Return the head of a request as bytes."""
    lines = [f"{method} {target} HTTP/1.1", "host: gateway", f"authorization: Bearer {bearer or token()}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in fields), "", ""]).encode("latin-1")


async def problem(response: aiohttp.ClientResponse, status: int, slug: str) -> dict[str, object]:
    """Assert that an answer is a problem, and return it."""
    assert response.status == status, await response.text()
    assert response.content_type == "application/problem+json"
    body: dict[str, object] = await response.json()
    assert body["status"] == status
    assert body["type"] == f"/problems/{slug}"
    assert body["title"]
    assert body["detail"]
    return body
