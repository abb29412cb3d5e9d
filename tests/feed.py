"""A reader of the feed, as EventSource is one: it knows where it was, and goes on from there."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.api import Api

FEED = "/api/v1/events"


@dataclass
class Reader:
    """What was received over however many connections."""

    events: list[dict[str, Any]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    """Of those events."""
    last_id: str | None = None
    heartbeats: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]

    async def read(self, answer: aiohttp.ClientResponse, until: Callable[[], bool] = lambda: False) -> None:
        """Take in an answer until it ends, or it is enough."""
        data: list[str] = []
        last_id = self.last_id
        while not until():
            line = (await answer.content.readline()).decode()
            if not line:
                return  # what is incomplete does not count
            name, _, value = line.rstrip("\n").partition(": ")
            if name == "data":
                data.append(value)
            elif name == "id":
                last_id = value
            elif name == "" and value:
                self.heartbeats += 1
            elif not name:
                self.last_id = last_id
                if data:
                    assert last_id is not None
                    self.events.append(json.loads("\n".join(data)))
                    self.positions.append(int(last_id))
                    data = []
                self.arrived.set()


@asynccontextmanager
async def connected(api: Api, reader: Reader | None = None, **params: Any) -> AsyncIterator[aiohttp.ClientResponse]:
    """Open a stream, where the reader was if it was anywhere, over a connection of its own."""
    headers = {"Authorization": f"Bearer {api.token}"}
    if reader is not None and reader.last_id is not None:
        headers["Last-Event-ID"] = reader.last_id
    timeout = aiohttp.ClientTimeout(total=None, sock_read=60)
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
        session.get(api.url + FEED, params=params) as answer,
    ):
        if answer.status == 200:
            api.note("GET", FEED)
        yield answer


async def everything(api: Api, enough: Callable[[Reader], bool], seconds: float = 60, **params: Any) -> Reader:
    """Read all that is kept, until it is enough."""
    reader = Reader()
    async with asyncio.timeout(seconds), connected(api, after=0, **params) as answer:
        assert answer.status == 200, await answer.text()
        await reader.read(answer, lambda: enough(reader))
    return reader
