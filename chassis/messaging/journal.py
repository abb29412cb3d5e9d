"""The journal: events that were published, kept so that they can be published again with their own ids."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import orjson

from chassis.messaging import broker
from chassis.messaging.consumer import INBOX_RETENTION_DAYS
from chassis.messaging.relay import standing_in
from chassis.settings import Settings
from dotmac_contracts.topics import ALL

REACH = timedelta(days=INBOX_RETENTION_DAYS) - timedelta(
    milliseconds=max(topic.retention_ms for topic in ALL if not topic.compacted)
)
"""How far back events may be published again. One that is may lie in its topic for as long as that keeps it, and must
still be in the inbox of whoever handled it the first time when it is read."""

_PAGE = 2_000
_READ = """
select published_at, outbox_id, topic, key, headers, value from journal
where published_at >= $1 and (published_at, outbox_id) > ($1, $2) order by published_at, outbox_id limit $3
"""

Progress = Callable[[int, datetime], Awaitable[None]]
"""Told how many events are acknowledged, and when the last of them had first been published."""


class TooFarBack(ValueError):
    """Some inbox may have forgotten an event from then, and would handle it again."""


def check_reach(since: datetime, known_until: datetime) -> None:
    """Raise TooFarBack unless the inboxes, complete until `known_until`, remember everything since `since`."""
    earliest = known_until - REACH
    if since < earliest:
        raise TooFarBack(
            f"{since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC is too far back: an inbox remembers an event for"
            f" {INBOX_RETENTION_DAYS} days, and a topic may hold it for {INBOX_RETENTION_DAYS - REACH.days} of them;"
            f" the earliest moment is {earliest.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        )


async def _untold(_count: int, _reached: datetime) -> None:
    return None


async def republish(url: str, settings: Settings, since: datetime, progress: Progress = _untold) -> int:
    """Publish again, in their order, the events of a service since a moment; return how many those were.

    url: the service's database as its relay role. The relays stand by meanwhile, so that of each key the events that
    are new follow those that are repeated. Who has handled an event recognises it by its id, which stays, and does
    nothing; so this may be ended and begun anew at any time. `check_reach` first.
    """
    published = 0
    async with contextlib.AsyncExitStack() as stack:
        connection = await stack.enter_async_context(standing_in(url))
        producer = broker.producer(settings)
        stack.push_async_callback(producer.stop)  # also where it can't start, which its own context leaves open
        await producer.start()
        place = (since, -1)
        while rows := await connection.fetch(_READ, *place, _PAGE):
            sent = [
                await producer.send(
                    row["topic"],
                    row["value"],
                    row["key"].encode(),
                    headers=[(name, value.encode()) for name, value in orjson.loads(row["headers"]).items()],
                )
                for row in rows
            ]
            await asyncio.gather(*sent)
            published += len(rows)
            place = (rows[-1]["published_at"], rows[-1]["outbox_id"])
            await progress(published, place[0])
    return published
