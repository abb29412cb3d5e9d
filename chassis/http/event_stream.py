"""Server-Sent Events of what is written to a service's database: what is there first, then the rest as it comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from fastapi.sse import format_sse_event
from starlette.responses import StreamingResponse

from chassis.http.problem import Problem
from chassis.messaging.consumer import TRANSIENT
from chassis.persistence.listener import Listener
from chassis.security.principals import Principal
from chassis.service import Service

HEARTBEAT_SECONDS = 10.0

# Not to be stored on the way, nor held back until there is more of it.
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class Reading:
    """What was read after a position."""

    events: Sequence[bytes]
    """As they are sent."""
    position: int
    """Up to which there is nothing else."""
    more: bool
    """Whether there may be more already."""
    over: bool = False
    """Whether nothing comes after it."""


@dataclass(frozen=True, slots=True)
class EventStream:
    """Sends what is read after a position, and after each wake-up what has come since.

    It ends with the token, which may be revoked, the tenant, the process or the database, and whoever comes back goes
    on where they were.
    """

    service: Service
    who: Principal
    channel: str
    """Of the listener that tells of something new."""
    key: str
    """What is watched there."""
    read: Callable[[int], Awaitable[Reading]]
    retry_milliseconds: int
    """After how long a client comes back."""
    counted: contextlib.AbstractContextManager[object] = field(default_factory=contextlib.nullcontext)
    """Entered while it is sent."""

    def response(self, position: int, first: Reading) -> StreamingResponse:
        """Return the answer to a request that goes on from a position, with what was read there."""
        return StreamingResponse(self._sent(position, first), 200, _HEADERS, "text/event-stream")

    async def _sent(self, position: int, reading: Reading) -> AsyncIterator[bytes]:
        listener = self.service.listeners[self.channel]
        with self.counted, listener.watching(self.key) as changed:
            changed.set()  # by what has come since it was first read
            yield format_sse_event(id=str(position), retry=self.retry_milliseconds)
            while (left := self._left(listener)) > 0:
                for event in reading.events:
                    if self._left(listener) <= 0:  # by the time that the client takes it
                        return
                    yield event
                if reading.over:
                    return
                position = reading.position
                if not reading.more and not await _changes(changed, min(left, HEARTBEAT_SECONDS)):
                    if self._left(listener) <= 0:
                        return
                    yield format_sse_event(comment="heartbeat", id=str(position))
                changed.clear()
                try:
                    reading = await self.read(position)
                except (Problem, *TRANSIENT):
                    return  # the database is away, or what comes next is gone: it is told when it comes back

    def _left(self, listener: Listener) -> float:
        """Return for how many seconds it may go on; asked before anything is sent."""
        if listener.ending or self.service.standings.is_closed(self.who.tenant_id):
            return 0
        if self.service.tokens.revocations.include(self.who):
            return 0
        return (self.who.expires_at - self.service.clock.now()).total_seconds()


async def _changes(changed: asyncio.Event, seconds: float) -> bool:
    """Wait for a change; return whether there was one within so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await changed.wait()
    return changed.is_set()
