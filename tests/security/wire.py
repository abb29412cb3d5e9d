"""HTTP as bytes, for what no client would send, and the memory of a process."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson


@dataclass(frozen=True)
class Reply:
    """The first answer on a connection; status 0 if it was closed without one."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """The slug of the problem that it is."""
        problem: dict[str, Any] = orjson.loads(self.body)
        assert self.headers["content-type"] == "application/problem+json"
        assert problem["status"] == self.status
        return str(problem["type"]).removeprefix("/problems/")


class Wire:
    """A connection of bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send; that the other side closes meanwhile is for `reply` to find out."""
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                self._writer.write(piece)
                await self._writer.drain()

    async def reply(self, seconds: float = 30) -> Reply:
        """Read the next answer."""
        async with asyncio.timeout(seconds):
            try:
                head = await self._reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return Reply(0, {}, b"")
            first, *lines = head.decode("latin-1").rstrip().split("\r\n")
            headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
            if headers.get("transfer-encoding") == "chunked":
                body = b""
                while size := int((await self._reader.readline()).split(b";")[0], 16):
                    body += await self._reader.readexactly(size)
                    await self._reader.readline()
                await self._reader.readline()
            else:
                body = await self._reader.readexactly(int(headers.get("content-length", "0")))
            return Reply(int(first.split()[1]), headers, body)

    async def closed(self, seconds: float) -> bool:
        """Say whether the other side closes in time, whatever it sends before."""
        try:
            async with asyncio.timeout(seconds):
                with contextlib.suppress(ConnectionError):
                    while await self._reader.read(65536):
                        pass
        except TimeoutError:
            return False
        return True


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Wire]:
    """Open a connection to where a URL points."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port, limit=1 << 20)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def exchange(url: str, *pieces: bytes) -> Reply:
    """Send bytes on a connection of their own and return the answer."""
    async with connected(url) as wire:
        await wire.send(*pieces)
        return await wire.reply()


def request(method: str, target: str, token: str | None = None, body: bytes = b"", **headers: str) -> bytes:
    """Return a well-formed request but for what is given; header names have `_` for `-`."""
    fields = {"Host": "api.example", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if token:
        fields["Authorization"] = f"Bearer {token}"
    if body:
        fields.setdefault("Content-Length", str(len(body)))
    return head(f"{method} {target} HTTP/1.1", (f"{name}: {value}" for name, value in fields.items())) + body


def head(first: str, lines: Iterable[str]) -> bytes:
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")


def resident(pid: int | None) -> int:
    """Return the bytes of memory that a process has, of its own and shared."""
    assert pid is not None
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
