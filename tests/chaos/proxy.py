"""A TCP proxy that can be told to cut the connections between a client and a server, or to slow them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

_CHUNK = 64 * 1024


class Proxy:
    """Listens on `port` of the loopback address and passes on what comes to the server's port there."""

    def __init__(self, port: int, server_port: int) -> None:
        self.port = port
        self._server_port = server_port
        self._cut = False
        self._delay_seconds = 0.0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Break every connection off, and each new one as soon as it is made, until `mend`."""
        self._cut = True
        for writer in self._writers:
            writer.transport.abort()

    def slow(self, delay_seconds: float) -> None:
        """Hold back each piece of up to 64 KiB, either way, for so long, until `mend`: late, and not much at a time."""
        self._delay_seconds = delay_seconds

    def mend(self) -> None:
        """Pass everything on at once again."""
        self._cut, self._delay_seconds = False, 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side ends the connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        server: asyncio.StreamWriter | None = None
        try:
            if self._cut:
                return
            from_server, server = await asyncio.open_connection("127.0.0.1", self._server_port)
            self._writers.add(server)
            ways = {
                asyncio.create_task(self._pass_on(reader, server)),
                asyncio.create_task(self._pass_on(from_server, writer)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, or the proxy is closed: so is this connection
        finally:
            self._tasks.discard(task)
            for side in filter(None, (writer, server)):
                self._writers.discard(side)
                side.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(_CHUNK):
                if self._delay_seconds:
                    await asyncio.sleep(self._delay_seconds)
                writer.write(piece)
                await writer.drain()

    async def close(self) -> None:
        """End every connection."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def proxy(port: int, server_port: int) -> AsyncIterator[Proxy]:
    """Run a proxy."""
    running = Proxy(port, server_port)
    listener = await asyncio.start_server(running.serve, "127.0.0.1", port, limit=_CHUNK)
    try:
        yield running
    finally:
        listener.close()
        await running.close()
