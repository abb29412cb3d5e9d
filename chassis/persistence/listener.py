"""Wake-ups from other processes: who waits for something of a tenant learns of it when it is committed.

`Transaction.wake` sends them. They may be lost, so whoever waits looks again after a while anyway.
"""

import asyncio
import contextlib
from collections.abc import Iterator

import asyncpg
import structlog

from chassis.persistence.database import LOST, close

log = structlog.get_logger()

_RETRY_SECONDS = 1.0


class Listener:
    """Hears what is notified on a channel, over a connection of its own, which it makes anew when it is lost."""

    def __init__(self, url: str, channel: str, *, application_name: str) -> None:
        self.channel = channel
        self._url = url
        self._application_name = application_name
        self._watches: dict[str, set[asyncio.Event]] = {}
        self._task: asyncio.Task[None] | None = None
        self.healthy = False
        """Whether it is connected."""
        self.ending = False
        """Whether the process is about to stop: who waits should end."""

    def start(self) -> None:
        """Begin to listen; a database that is away is waited for."""
        self._task = asyncio.create_task(self._run(), name=f"listener-{self.channel}")

    async def stop(self) -> None:
        """Close the connection."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def end(self) -> None:
        """Tell all who wait that the process is about to stop."""
        self.ending = True
        self._ring(list(self._watches))

    @contextlib.contextmanager
    def watching(self, key: str) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever the key is notified; clear it before you look."""
        event = asyncio.Event()
        watches = self._watches.setdefault(key, set())
        watches.add(event)
        try:
            yield event
        finally:
            watches.discard(event)
            if not watches and self._watches.get(key) is watches:
                del self._watches[key]

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except LOST as error:
                log.warning("listener_lost_connection", channel=self.channel, error=repr(error))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _listen(self) -> None:
        settings = {"application_name": self._application_name}
        connection = await asyncpg.connect(self._url, server_settings=settings, timeout=10)
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _connection: lost.set())
            await connection.add_listener(self.channel, self._hear)
            self.healthy = True
            self._ring(list(self._watches))  # of what came meanwhile nothing was heard
            await lost.wait()
            raise ConnectionError("the connection was closed")
        finally:
            self.healthy = False
            await close(connection)

    def _hear(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._ring(str(payload).split(","))

    def _ring(self, keys: list[str]) -> None:
        for key in keys:
            for event in self._watches.get(key, ()):
                event.set()
