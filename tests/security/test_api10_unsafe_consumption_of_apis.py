"""API10: what other systems answer and send is believed no more than what a client sends.

Events that can't be read are in tests/integration/test_messaging.py.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from aiohttp import web
from joserfc.jwk import OctKey

from chassis.security.tokens import InvalidToken, SigningKeysUnavailable, TokenIssuer, TokenVerifier
from deploy.stack.processes import Child, free_port
from deploy.stack.stack import SERVICES, Stack
from tests.api import eventually
from tests.conftest import Tenant
from tests.security.wire import connected, exchange, request, resident

V1 = "/api/v1"
MEGABYTE = 1024 * 1024

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Upstream:
    """A service that answers whatever a test wants, byte by byte."""

    def __init__(self) -> None:
        self.port = free_port()
        self.answer: bytes = b""
        self.then: Behaviour | None = None
        self.heads: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            self.heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            await writer.drain()
            if self.then:
                await self.then(reader, writer)
        writer.close()


class Before:
    """A gateway of its own before the upstream, which stands for the customer service."""

    def __init__(self, url: str, upstream: Upstream, child: Child, token: str) -> None:
        self.url, self.upstream, self.child, self.token = url, upstream, child, token

    async def ask(self, answer: bytes, then: Behaviour | None = None) -> Any:
        self.upstream.answer, self.upstream.then = answer, then
        return await exchange(self.url, request("GET", f"{V1}/customers", self.token))


@pytest.fixture(scope="module")
async def before(stack: Stack, tenant: Tenant, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Before]:
    upstream = Upstream()
    server = await asyncio.start_server(upstream, "127.0.0.1", upstream.port)
    port = free_port()
    environment = {
        **os.environ,
        **{f"{service.upper()}_URL": stack.url(service) for service in SERVICES},
        "CUSTOMER_URL": f"http://127.0.0.1:{upstream.port}",
        "JWKS_URL": f"{stack.url('tenant')}/.well-known/jwks.json",
        "PORT": str(port),
        "UPSTREAM_SECONDS": "2",
        "BREAKER_FAILURES": "1000000",  # this service only misbehaves, and is asked nevertheless
    }
    log = tmp_path_factory.mktemp("gateway") / "gateway.log"
    child = Child("gateway", [sys.executable, "-m", "gateway"], environment, log)
    await child.start()
    url = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        child.raise_if_dead()
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{url}/health/live") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    await eventually(answers)
    yield Before(url, upstream, child, tenant.api.token or "")
    await child.stop()
    server.close()


GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


async def test_a_good_answer_passes(before: Before) -> None:
    reply = await before.ask(GOOD)
    assert (reply.status, reply.body) == (200, b"{}")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 banana OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\x00b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    ],
    ids=lambda answer: repr(answer[:40]),
)
async def test_an_answer_that_is_none_is_a_bad_gateway(before: Before, answer: bytes) -> None:
    reply = await before.ask(answer)
    assert (reply.status, reply.kind) == (502, "bad-gateway")
    assert b"aiohttp" not in reply.body
    assert str(before.upstream.port).encode() not in reply.body


async def test_an_answer_that_does_not_come_is_a_timeout(before: Before) -> None:
    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(20)

    started = time.monotonic()
    reply = await before.ask(b"", silent)
    assert (reply.status, reply.kind) == (504, "gateway-timeout")
    assert time.monotonic() - started < 15


async def test_a_redirect_is_the_clients_to_follow(before: Before) -> None:
    place = "http://169.254.169.254/latest/meta-data"
    answer = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()
    reply = await before.ask(answer)
    assert (reply.status, reply.headers["location"]) == (302, place)


async def test_headers_of_a_connection_stay_on_it(before: Before) -> None:
    fields = (
        b"Connection: X-Inner\r\nX-Inner: secret\r\nKeep-Alive: 5\r\nUpgrade: h2c\r\nTE: trailers\r\nX-Outer: shown\r\n"
    )
    reply = await before.ask(b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 0\r\n\r\n")
    assert reply.headers["x-outer"] == "shown"
    for name in ("x-inner", "keep-alive", "upgrade", "te"):
        assert name not in reply.headers


async def test_an_answer_that_breaks_off_is_not_taken_for_whole(before: Before) -> None:
    async with connected(before.url) as wire:
        before.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"
        before.upstream.then = None
        await wire.send(request("GET", f"{V1}/customers", before.token))
        try:
            reply = await wire.reply()
        except asyncio.IncompleteReadError:
            return  # cut off, which says what it is
        assert reply.status in (0, 502)


async def test_an_endless_answer_is_passed_on_and_not_kept(before: Before) -> None:
    async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(3_000):
            writer.write(b"x" * 65536)
            await writer.drain()

    memory = resident(before.child.pid)
    before.upstream.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"
    before.upstream.then = endless
    async with connected(before.url) as wire:
        await wire.send(request("GET", f"{V1}/customers", before.token))
        await asyncio.sleep(1)  # nobody reads meanwhile: the gateway must not take in what it can't pass on
        assert resident(before.child.pid) - memory < 32 * MEGABYTE
    reply = await before.ask(GOOD)
    assert reply.status == 200


@contextlib.asynccontextmanager
async def publisher(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    port = free_port()
    app = web.Application()
    app.router.add_get("/keys.json", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}/keys.json"
    finally:
        await runner.cleanup()


async def _endless(asked: web.Request) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(asked)
    with contextlib.suppress(ConnectionError):
        for _ in range(2_000):
            await response.write(b" " * 65536)
    return response


def _says(body: Any, status: int = 200) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=body if isinstance(body, bytes) else json.dumps(body).encode(), status=status)

    return answer


KEY_SETS: dict[str, Callable[[web.Request], Awaitable[web.StreamResponse]]] = {
    "an error": _says({"keys": []}, 500),
    "no JSON": _says(b"<html>"),
    "another shape": _says([1, 2]),
    "keys that are none": _says({"keys": [1, None, "x"]}),
    "a key without a type": _says({"keys": [{"x": "y"}]}),
    "no key": _says({"keys": []}),
    "too much": _endless,
    "a symmetric key": _says({"keys": [OctKey.generate_key(256).as_dict(private=True)]}),
    "another's key": _says(TokenIssuer("another secret of more than 32 characters").jwks()),
}


@pytest.mark.parametrize("name", KEY_SETS)
async def test_a_key_set_that_is_none_verifies_nothing(name: str) -> None:
    token = TokenIssuer("s" * 40).issue("somebody", uuid4(), ["customers:read"])
    async with publisher(KEY_SETS[name]) as url:
        started = time.monotonic()
        with pytest.raises((InvalidToken, SigningKeysUnavailable)):
            await TokenVerifier(url).verify(token)
        assert time.monotonic() - started < 10


async def test_keys_that_were_known_do_while_the_publisher_says_nonsense() -> None:
    issuer = TokenIssuer("s" * 40)
    answers = [_says(issuer.jwks()), _says(b"nonsense")]
    asked = 0

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        return await answers[min(asked, 2) - 1](request)

    async with publisher(answer) as url:
        verifier = TokenVerifier(url)
        tenant = uuid4()
        assert (await verifier.verify(issuer.issue("a", tenant, ["x"]))).tenant_id == tenant
        for _ in range(50):
            with pytest.raises(InvalidToken):
                await verifier.verify("a.b.c")
        assert (await verifier.verify(issuer.issue("b", tenant, ["x"]))).subject == "b"
        # A flood of bad tokens asks the publisher no more often.
        assert asked <= 2


async def test_a_publisher_that_does_not_answer_at_once_is_asked_again() -> None:
    issuer = TokenIssuer("s" * 40)
    asked = 0
    verified = asyncio.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked == 1:
            await verified.wait()
        return await _says(issuer.jwks())(request)

    async with publisher(answer) as url:
        assert (await TokenVerifier(url).verify(issuer.issue("a", uuid4(), ["x"]))).subject == "a"
        verified.set()
    assert asked == 2
