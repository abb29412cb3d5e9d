"""A service as the gateway sees it: where it is, connections to it, and whether it can be asked now."""

import asyncio
import ssl
from collections.abc import Sequence
from typing import NamedTuple, Protocol
from urllib.parse import urlsplit

import aiohttp
import httptools

from chassis.http.problem import Problem
from gateway.breaker import CircuitBreaker
from gateway.turn import Turn

_CONNECT_SECONDS = 3.0
IDLE_SECONDS = 1.0
"""How long a connection may wait for work. Less than a service that is to stop waits for its clients to give up theirs
(`DRAIN_SECONDS`), and far less than one that runs leaves them open (75 s): or a request could meet a connection that is
closed just then."""
_LEFT_ALONE_SECONDS = 5.0
"""For how long an address that took no connection is asked after the others."""
_LARGEST_HEAD = 64 * 1024


class Asking(Protocol):
    """A request that is under way over a connection."""

    head_only: bool
    """Whether its answer has no body, whatever the head says: it is a HEAD."""
    sent: bool
    """Whether all of it has been written."""

    def answered(self, connection: "Connection", pieces: Sequence[bytes], complete: bool) -> None:
        """Take what came: the head, if it is the first time, and pieces of the body.

        When it is complete, the connection is not this request's any more.
        """

    def unanswered(self, connection: "Connection", reason: str) -> None:
        """The connection ended before the answer was complete."""

    def may_send(self, may: bool) -> None:
        """The service takes no more of the request for now, or does again."""


class Connection(asyncio.Protocol):
    """One connection, over which one request at a time is answered."""

    def __init__(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        self._transport: asyncio.Transport
        self._asking: Asking | None = None
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self._reading = True
        self._head_bytes = 0
        self._in_head = True
        self._complete = self._keep_alive = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """Of the answer; names are in lower case."""
        self.reused = False
        """Whether it has answered before: the service may have closed it meanwhile."""
        self.silent = True
        """Whether no byte of the answer has come."""
        self.idle_since = 0.0

    def begin(self, asking: Asking) -> None:
        """Serve a request from now on."""
        self._asking = asking
        self._head_bytes = 0
        self._in_head = self.silent = True
        self._complete = self._keep_alive = False
        self.headers = []

    def write(self, data: bytes) -> None:
        """Send a part of the request; if the connection has ended, `unanswered` follows."""
        self._upstream.turn.write(self._transport, data)

    def abort(self) -> None:
        """End it at once: whatever is under way concerns nobody any more."""
        self._asking = None
        self._transport.abort()

    def close(self) -> None:
        """End it when all is written."""
        self._transport.close()

    @property
    def closing(self) -> bool:
        """Whether it can't be used any more."""
        return self._transport.is_closing()

    def read(self, on: bool) -> None:
        """Take what comes from the service, or nothing for now."""
        if on is not self._reading and not self._transport.is_closing():
            self._reading = on
            if on:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # asyncio's protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        asking = self._asking
        if asking is None:
            self._transport.abort()  # an answer that nobody asked for
            return
        self.silent = False
        try:
            self._parser.feed_data(data)
            if self._in_head:
                self._head_bytes += len(data)
                if self._head_bytes > _LARGEST_HEAD:
                    raise httptools.HttpParserError("the head is too large")
                return
            pieces = self._pieces.copy()
            self._pieces.clear()
            if asking.head_only:
                if pieces:
                    raise httptools.HttpParserError("a body where none may be")
                # httptools can't be told that no body follows, and waits for it; another one doesn't.
                self._complete, self._keep_alive = True, self._parser.should_keep_alive()
                self._parser = httptools.HttpResponseParser(self)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.abort()
            asking.unanswered(self, f"what came is no answer: {error.__context__ or error}")
            return
        if self._complete:
            self._asking = None
            self.reused = True
            if self._keep_alive and asking.sent and not self._transport.is_closing():
                self.read(True)
                self._upstream.release(self)
            else:
                self._transport.abort()
        asking.answered(self, pieces, self._complete)

    def connection_lost(self, exc: Exception | None) -> None:
        asking, self._asking = self._asking, None
        if asking is None:
            self._upstream.forget(self)
        elif exc is None and not self._in_head and not self._has_length():
            asking.answered(self, (), True)
        else:
            asking.unanswered(self, str(exc) if exc else "the connection was closed")

    def pause_writing(self) -> None:
        if self._asking is not None:
            self._asking.may_send(False)

    def resume_writing(self) -> None:
        if self._asking is not None:
            self._asking.may_send(True)

    # httptools' callbacks; on_body is an attribute

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("it answered twice")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else it is a trailer field
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._in_head = False
        elif self.status == 101:
            raise ValueError("it changed the protocol")
        else:
            self.headers = []  # an interim answer: the final one follows

    def on_message_complete(self) -> None:
        if not self._in_head:
            self._complete, self._keep_alive = True, self._parser.should_keep_alive()

    def _has_length(self) -> bool:
        return any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers)


class _Address(NamedTuple):
    url: str
    authority: bytes
    host: str
    port: int
    tls: ssl.SSLContext | None

    @classmethod
    def parse(cls, name: str, url: str) -> "_Address":
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
            raise ValueError(f"the address of the {name} service must be http://host:port: {url!r}")
        secure = parts.scheme == "https"
        return cls(
            url.strip().rstrip("/"),
            parts.netloc.encode(),
            parts.hostname,
            parts.port or (443 if secure else 80),
            ssl.create_default_context() if secure else None,
        )


class Upstream:
    """A service: its connections, how much it is asked at once, and its circuit breaker."""

    def __init__(self, name: str, urls: str, turn: Turn, *, concurrency: int, breaker: CircuitBreaker) -> None:
        """`urls` has one address, or several with commas between, without a path; ValueError if one can't be asked.

        Of several each is asked in its turn, and the next one when it takes no connection: an instance can be replaced
        by another one beside it.
        """
        self.name = name
        self.turn = turn
        self._addresses = [_Address.parse(name, url) for url in urls.split(",")]
        self.authority = self._addresses[0].authority
        self.breaker = breaker
        self.under_way = 0
        self._concurrency = concurrency
        self._idle: list[Connection] = []
        self._refused: dict[str, float] = {}
        """By address, when it took no connection last."""
        self._turn = 0
        self._closed = False
        self._now = 0.0

    def enter(self, now: float) -> None:
        """Count a request in; Problem 503 if there are too many, or the service is left alone for a while."""
        if self.under_way >= self._concurrency:
            raise Problem(
                503,
                "overloaded",
                f"Too many requests to the {self.name} service are under way.",
                headers={"Retry-After": "1"},
            )
        wait = self.breaker.wait(now)
        if wait:
            raise Problem(
                503,
                "unavailable",
                f"The {self.name} service does not answer; it will be asked again shortly.",
                headers={"Retry-After": str(max(1, round(wait)))},
            )
        self.under_way += 1

    def leave(self, *, told: bool) -> None:
        """Count it out; `told`: whether the breaker was told how it went."""
        self.under_way -= 1
        if not told:
            self.breaker.abandoned()

    def idle_connection(self) -> Connection | None:
        """Return a connection that waits for work; the one used last, so that the others may end."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closing:
                return connection
        return None

    async def connect(self) -> Connection:
        """Return a new connection; OSError or TimeoutError if there can be none."""
        loop = asyncio.get_running_loop()
        for address in self._in_turn():
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    _, connection = await loop.create_connection(
                        lambda: Connection(self), address.host, address.port, ssl=address.tls
                    )
            except (OSError, TimeoutError) as error:
                refusal = error
                self._refused[address.url] = self._now
            else:
                self._refused.pop(address.url, None)
                return connection
        raise refusal

    def _in_turn(self) -> list[_Address]:
        """Return those to ask, one after the other; what took no connection lately comes last."""
        self._turn = (self._turn + 1) % len(self._addresses)
        turn = [*self._addresses[self._turn :], *self._addresses[: self._turn]]
        never = -_LEFT_ALONE_SECONDS
        return sorted(turn, key=lambda each: self._now - self._refused.get(each.url, never) < _LEFT_ALONE_SECONDS)

    async def fetch(self, session: aiohttp.ClientSession, path: str) -> tuple[int, bytes]:
        """Return the status and body of a page of the service; what aiohttp raises if no address answers."""
        for address in tuple(self._addresses):
            try:
                async with session.get(address.url + path) as answer:
                    return answer.status, await answer.read()
            except (aiohttp.ClientError, TimeoutError) as error:
                failure = error
        raise failure

    def release(self, connection: Connection) -> None:
        """Take back a connection that has served."""
        if self._closed:
            connection.close()
            return
        connection.idle_since = self._now
        self._idle.append(connection)

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        if connection in self._idle:
            self._idle.remove(connection)

    def drop_idle(self, now: float) -> None:
        """Close the connections that have been idle for long; called several times a second."""
        self._now = now
        fresh = [connection for connection in self._idle if now - connection.idle_since < IDLE_SECONDS]
        if len(fresh) < len(self._idle):
            stale, self._idle = set(self._idle) - set(fresh), fresh
            for connection in stale:
                connection.close()

    def close(self) -> None:
        """Close all idle connections, and the others once they have served."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
