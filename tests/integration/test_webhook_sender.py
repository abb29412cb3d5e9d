"""What a request to an endpoint is, and where it does not go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import AF_INET, AddressFamily

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult

from services.integration.domain.signature import new_secret
from services.integration.sender import Sender
from tests.receiver import answering, never, receiver

BODY = b'{"id":"1"}'


@asynccontextmanager
async def sender(
    *, allow_loopback: bool = True, timeout_seconds: float = 10, resolver: AbstractResolver | None = None
) -> AsyncIterator[Sender]:
    made = Sender(timeout_seconds=timeout_seconds, allow_loopback=allow_loopback, resolver=resolver)
    try:
        yield made
    finally:
        await made.close()


class Names(AbstractResolver):
    """Resolves each name to what a test says, and notes that it was asked."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_INET) -> list[ResolveResult]:
        self.asked.append(host)
        addresses = self._answers.pop(0)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=AF_INET, proto=0, flags=0)
            for address in addresses
        ]

    async def close(self) -> None:
        pass


async def test_an_event_is_sent_and_signed() -> None:
    async with receiver() as hook, sender() as client:
        hook.secret = new_secret()
        outcome = await client.send(hook.url, [hook.secret], "1", BODY)
    assert (outcome.delivered, outcome.status, outcome.error) == (True, 204, None)
    assert hook.ids() == ["1"]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "127.1", "2130706433", "0x7f.1", "[::ffff:7f00:1]"]
)
async def test_this_machine_is_not_reached_by_any_name_of_it(host: str) -> None:
    async with receiver() as hook, sender(allow_loopback=False) as client:
        outcome = await client.send(f"http://{host}:{hook.port}/hook", [new_secret()], "1", BODY)
    assert not outcome.delivered
    assert outcome.error == "its host has no public address"
    assert hook.attempts == []


async def test_a_name_that_leads_to_a_private_address_as_well_is_refused() -> None:
    names = Names(["93.184.216.34", "10.0.0.1"])
    async with sender(allow_loopback=False, resolver=names) as client:
        outcome = await client.send("https://hooks.acme.example/x", [new_secret()], "1", BODY)
    assert outcome.error == "its host has no public address"


async def test_the_connection_goes_to_the_very_address_that_was_checked() -> None:
    # Whoever asked for the name a second time would be led elsewhere.
    names = Names(["127.0.0.1"], ["10.0.0.1"])
    async with receiver() as hook, sender(resolver=names) as client:
        outcome = await client.send(f"http://hooks.acme.example:{hook.port}/hook", [new_secret()], "1", BODY)
    assert outcome.delivered
    assert names.asked == ["hooks.acme.example"]


async def test_a_name_that_is_nobody_s_is_told() -> None:
    async with sender() as client:
        outcome = await client.send("https://nobody.invalid/x", [new_secret()], "1", BODY)
    assert (outcome.delivered, outcome.error) == (False, "its host can't be resolved")


async def test_no_redirect_is_followed() -> None:
    async with receiver() as hook, receiver() as elsewhere, sender() as client:
        hook.behaviour = answering(307, Location=elsewhere.url)
        outcome = await client.send(hook.url, [new_secret()], "1", BODY)
    assert (outcome.delivered, outcome.status, outcome.error) == (False, 307, "it answered 307")
    assert elsewhere.attempts == []


async def test_no_cookie_is_kept() -> None:
    cookies: list[str | None] = []

    async def baking(request: web.Request) -> web.StreamResponse:
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "mine=1; Path=/"})

    async with receiver() as hook, sender() as client:
        hook.behaviour = baking
        for _ in range(2):
            await client.send(hook.url, [new_secret()], "1", BODY)
    assert cookies == [None, None]


async def test_who_does_not_answer_is_not_waited_for() -> None:
    async with receiver() as hook, sender(timeout_seconds=0.3) as client:
        hook.behaviour = never
        outcome = await client.send(hook.url, [new_secret()], "1", BODY)
    assert (outcome.delivered, outcome.error) == (False, "it did not answer in time")
    assert outcome.milliseconds >= 300


async def test_of_an_answer_without_end_the_beginning_is_taken() -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Encoding": "gzip"})
        await response.prepare(request)
        while True:
            await response.write(b"x\0" * 4096)

    async with receiver() as hook, sender() as client:
        hook.behaviour = endless
        async with asyncio.timeout(5):
            outcome = await client.send(hook.url, [new_secret()], "1", BODY)
    assert outcome.delivered
    assert outcome.response == "x\N{REPLACEMENT CHARACTER}" * 512


async def test_who_asks_to_be_left_alone_for_a_while_is_heard() -> None:
    async with receiver() as hook, sender() as client:
        hook.behaviour = answering(503, "soon", **{"Retry-After": "120"})
        outcome = await client.send(hook.url, [new_secret()], "1", BODY)
    assert outcome.retry_after is not None
    assert (outcome.retry_after.total_seconds(), outcome.response) == (120, "soon")


async def test_nobody_there_is_a_failure() -> None:
    async with receiver() as hook:
        pass
    async with sender() as client:
        outcome = await client.send(hook.url, [new_secret()], "1", BODY)
    assert outcome.error == "it can't be reached"
