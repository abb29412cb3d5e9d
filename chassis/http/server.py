"""The HTTP server: uvicorn, with the limits that it leaves to a proxy in front of it.

Every process that listens is configured here, so that one reached directly refuses what the gateway refuses.
"""

import asyncio
import contextlib
import os
import resource
import socket
from pathlib import Path
from typing import Any

import httptools
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from chassis.http.headers import SecurityHeaders
from chassis.http.problem import MEDIA_TYPE, Problem

LONGEST_URL = 8 * 1024
LARGEST_HEAD = 32 * 1024
"""Bytes of the request line and all header fields together."""
MOST_HEADERS = 100
HEAD_SECONDS = 10.0
"""How long a client may take to send the head of a request, counted from its connection or its first byte."""
BODY_TICK_SECONDS = 10.0
SLOWEST_BODY = 1024
"""Bytes of body that each tick must bring, while the service reads."""
STALLED_READER_SECONDS = 60.0
"""How long a client may leave an answer unread."""


class LimitedProtocol(HttpToolsProtocol):
    """HTTP/1.1 that neither grows without end nor waits without end."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._refusal: Problem | None = None
        self._in_head = False
        self._in_body = False
        self._head_bytes = 0
        self._body_bytes = 0
        self._watch: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch = self.loop.call_later(HEAD_SECONDS, self._head_took_too_long)

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refusal is not None:
            return  # answered, and about to be closed
        if not self._in_head and not self._in_body:
            self._unwatch()
        super().data_received(data)
        if self._in_head:
            # The parser gathers a header field until it ends, so what counts is what came, not what was parsed.
            self._head_bytes += len(data)
            if self._head_bytes > LARGEST_HEAD:
                self._refuse(_head_too_large())
        if self._in_head or self._in_body:
            self._begin_watch()
        else:
            self._unwatch()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > LONGEST_URL:
            self._stop(Problem(414, "uri-too-long", f"A URL may have at most {LONGEST_URL:,} bytes."))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else a trailer field: nothing that was decided by the head may change after it
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if len(self.headers) > MOST_HEADERS:
            self._stop(_too_large(f"A request may have at most {MOST_HEADERS} header fields."))
        hosts = size = 0
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"host":
                hosts += 1
            elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
                self._stop(Problem(400, "malformed-request", "The only transfer coding is chunked."))
            elif name == b"expect" and value.lower() == b"100-continue":
                self.expect_100_continue = True
        if size > LARGEST_HEAD:
            self._stop(_head_too_large())
        if hosts > 1 or (hosts == 0 and self.parser.get_http_version() == "1.1"):
            self._stop(Problem(400, "malformed-request", "A request names its host once."))
        self.request_begins()
        self._in_head, self._in_body, self._body_bytes = False, True, 0

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self.body_comes(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        self.request_ends()

    def request_begins(self) -> None:
        """The head is there, and is well formed."""
        super().on_headers_complete()

    def body_comes(self, body: bytes) -> None:
        """A piece of the body is there."""
        super().on_body(body)

    def request_ends(self) -> None:
        """All of the request is there."""
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or Problem(400, "malformed-request", "This is not HTTP/1.1 as RFC 9112 has it."))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(STALLED_READER_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
        super().resume_writing()

    def _stop(self, problem: Problem) -> None:
        """Have the parser give up: it turns this into a call of `send_400_response`."""
        self._refusal = problem
        raise httptools.HttpParserError(problem.detail)

    def _refuse(self, problem: Problem) -> None:
        """Answer, if no answer has begun, and close."""
        self._refusal = problem
        self._in_head = self._in_body = False
        self._unwatch()
        under_way = self.cycle is not None and not self.cycle.response_complete
        if under_way or self.transport.is_closing():
            self.transport.close()
            return
        answer = problem.response()
        head = [STATUS_LINE[answer.status_code], b"content-type: ", MEDIA_TYPE.encode(), b"\r\n"]
        head += [b"content-length: %d\r\nconnection: close\r\n\r\n" % len(answer.body)]
        self.transport.write(b"".join([*head, bytes(answer.body)]))
        self.transport.close()

    def _begin_watch(self) -> None:
        if self._watch is None and not self.transport.is_closing():
            if self._in_head:
                self._watch = self.loop.call_later(HEAD_SECONDS, self._head_took_too_long)
            else:
                self._watch = self.loop.call_later(BODY_TICK_SECONDS, self._look_at_body, self._body_bytes)

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _head_took_too_long(self) -> None:
        self._watch = None
        if not self._in_body:
            self._refuse(Problem(408, "request-timeout", f"A request's head must come within {HEAD_SECONDS:.0f} s."))
            return
        self._begin_watch()

    def _look_at_body(self, before: int) -> None:
        self._watch = None
        if not self._in_body:
            return
        # A body that we don't read, because what takes it in is busy, is not the client's fault.
        if self._body_bytes - before < SLOWEST_BODY and not self.flow.read_paused:
            detail = f"A body must bring at least {SLOWEST_BODY:,} bytes in {BODY_TICK_SECONDS:.0f} s."
            self._refuse(Problem(408, "request-timeout", detail))
            return
        self._begin_watch()


class DrainingServer(uvicorn.Server):
    """A server that can be replaced by another one beside it without a request being lost."""

    async def drain(self, longest_seconds: float) -> None:
        """Take no new connection, and close those that are open, each with its next answer: until none is left."""
        # The client learns it with the answer, so that it does not send its next request into a connection that closes.
        self.server_state.default_headers.append((b"connection", b"close"))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(longest_seconds):
                await asyncio.gather(*(self._take(each) for each in self._taken_last()), return_exceptions=True)
                while self.server_state.connections:
                    await asyncio.sleep(0.02)

    def _taken_last(self) -> list[socket.socket]:
        """Close what listens, and return the connections that nobody has taken in: they would be reset with it.

        The system lets clients in before we know; on a busy machine their requests are there as well by then.
        """
        found = []
        for listener in self.servers:
            kept = [socket.socket(fileno=os.dup(each.fileno())) for each in listener.sockets]
            listener.close()
            for listening in kept:
                with listening, contextlib.suppress(BlockingIOError):
                    listening.setblocking(False)
                    while True:
                        found.append(listening.accept()[0])
        return found

    async def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)

        def protocol() -> asyncio.Protocol:
            return self.config.http_protocol_class(  # type: ignore[call-arg]
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state
            )

        tls = self.config.ssl
        await asyncio.get_running_loop().connect_accepted_socket(protocol, connection, ssl=tls)


def _head_too_large() -> Problem:
    return _too_large(f"The head of a request may have at most {LARGEST_HEAD:,} bytes.")


def _too_large(detail: str) -> Problem:
    return Problem(431, "request-header-fields-too-large", detail)


def configured(
    app: ASGIApp,
    host: str,
    port: int,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    trusted_proxies: str | None = None,
    protocol: type[LimitedProtocol] = LimitedProtocol,
) -> uvicorn.Config:
    """Return how an application is served: limited, without access log, over TLS if there is a certificate.

    trusted_proxies: addresses whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, comma-separated.
    """
    # Each client is a file; the usual soft limit of 1,024 would make a few idle ones an outage.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65_536)), hard))
    return uvicorn.Config(
        SecurityHeaders(app),  # around all, so that an error of the framework itself has them too
        host=host,
        port=port,
        http=protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=[address.strip() for address in (trusted_proxies or "").split(",") if address.strip()],
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
        ssl_certfile=certificate,
        ssl_keyfile=key,
    )
