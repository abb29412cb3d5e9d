"""Of a service with several addresses each is asked in its turn, but for those that take no connection."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from gateway.breaker import CircuitBreaker
from gateway.turn import Turn
from gateway.upstream import Upstream


@asynccontextmanager
async def instance(name: str, taken: Counter[str]) -> AsyncIterator[tuple[str, asyncio.Server]]:
    """Listen, and count the connections that are taken."""

    async def take(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken[name] += 1
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", server
    finally:
        server.close()


def upstream(*addresses: str) -> Upstream:
    return Upstream("customer", ",".join(addresses), Turn(), concurrency=9, breaker=CircuitBreaker(5, 1.0))


async def connected(asked: Upstream, times: int) -> None:
    for _ in range(times):
        (await asked.connect()).abort()
    await asyncio.sleep(0)  # the servers' tasks begin


async def test_each_address_has_its_turn() -> None:
    taken: Counter[str] = Counter()
    async with AsyncExitStack() as servers:
        found = [await servers.enter_async_context(instance(name, taken)) for name in "abc"]
        await connected(upstream(*(address for address, _ in found)), 9)
        while taken.total() < 9:
            await asyncio.sleep(0.001)
    assert taken == {"a": 3, "b": 3, "c": 3}


async def test_one_that_takes_no_connection_is_left_alone_for_a_while() -> None:
    taken: Counter[str] = Counter()
    async with AsyncExitStack() as servers:
        (one, gone), (another, _) = [await servers.enter_async_context(instance(name, taken)) for name in "ab"]
        gone.close()
        await gone.wait_closed()
        asked = upstream(one, another)
        await connected(asked, 4)
        assert asked._in_turn()[0].url == another
        assert asked._in_turn()[0].url == another
        asked.drop_idle(5.0)  # time has passed, and it has its turn again
        assert {asked._in_turn()[0].url, asked._in_turn()[0].url} == {one, another}
        while taken.total() < 4:
            await asyncio.sleep(0.001)
    assert taken == {"b": 4}


async def test_when_none_takes_a_connection_that_is_an_error() -> None:
    async with instance("a", Counter()) as (address, server):
        server.close()
        await server.wait_closed()
        with pytest.raises(OSError, match=r"Connect|refused"):
            await upstream(address).connect()
