"""The gateway's HTTP server: uvicorn, whose protocol hands what is for a service to an exchange, the rest to ASGI."""

import asyncio
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from chassis.http.server import LimitedProtocol, configured
from chassis.security.tokens import TokenVerifier
from gateway.admission import Caller
from gateway.app import PROXY, Gateway
from gateway.exchange import Exchange
from gateway.placements import Placements
from gateway.proxy import Proxy
from gateway.settings import GatewaySettings
from gateway.tenants import Tenants


class GatewayProtocol(LimitedProtocol):
    """A client's connection. What it carries for a service never becomes an ASGI call: that would cost most of all."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._proxy: Proxy = self.app_state[PROXY]
        self.peer = "unknown"
        self.caller: Caller | None = None
        self._current: Exchange | None = None
        """What is being answered."""
        self._arriving: Exchange | None = None
        """What the head and body that come now belong to, if it is no ASGI call; it may wait for its turn."""

    @property
    def understands_chunks(self) -> bool:
        """Whether an answer may be sent in chunks."""
        return self.parser is not None and self.parser.get_http_version() != "1.0"

    # asyncio's protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else "unknown"

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        # Here and not in the parser's callbacks, which would take an exception for the client's fault.
        if self._current is not None:
            self._go_on(self._current)

    def connection_lost(self, exc: Exception | None) -> None:
        current, self._current = self._current, None
        if current is not None:
            current.client_lost()
        if self._arriving is not None:
            self.cycle = None  # type: ignore[assignment]  # there is nothing that uvicorn would have to wake
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._current is not None:
            self._current.may_receive(False)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._current is not None:
            self._current.may_receive(True)

    # What uvicorn calls when the server stops

    def shutdown(self) -> None:
        if self._current is not None:
            self._current.end_stream()
        self._proxy.turn.flush()  # it closes connections whose answer is complete
        super().shutdown()

    # What has come of a request

    def request_begins(self) -> None:
        target = self.url if self.url.startswith(b"/") else _origin_form(self.url)
        path = target.partition(b"?")[0]
        method = self.parser.get_method().decode("ascii")
        route = None if method == "OPTIONS" and self._is_preflight() else self._proxy.route(path)
        if route is None:
            self._arriving = None
            super().request_begins()
            return
        exchange = self._arriving = Exchange(
            self._proxy,
            self,
            route,
            method,
            path,
            target,
            self.headers,
            keep_alive=self.parser.should_keep_alive(),
            expects_continue=self.expect_100_continue,
        )
        before: RequestResponseCycle | Exchange | None = self.cycle
        self.cycle = exchange  # type: ignore[assignment]  # it has what uvicorn asks of it
        if before is None or before.response_complete:
            self._current = exchange
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, self.app))

    def body_comes(self, body: bytes) -> None:
        if self._arriving is not None:
            self._arriving.body(body)
        else:
            super().body_comes(body)

    def request_ends(self) -> None:
        if self._arriving is not None:
            self._arriving.body_ends()
        else:
            super().request_ends()

    # What uvicorn calls when a request's turn has come, and when it is answered

    def _start_asgi_task(self, cycle: RequestResponseCycle | Exchange, app: Any) -> None:
        if isinstance(cycle, Exchange):
            self._current = cycle
            # Not at once: a row of requests that are refused would be a row of calls, each inside the one before.
            self.loop.call_soon(self._go_on, cycle)
        else:
            super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        self._current = None
        super().on_response_complete()

    def _is_preflight(self) -> bool:
        """Say whether a browser asks whether it may ask (CORS): the gateway answers that itself."""
        asks = any(name == b"access-control-request-method" for name, _ in self.headers)
        return asks and bool(self._proxy.origins)

    def _go_on(self, exchange: Exchange) -> None:
        try:
            exchange.go_on()
        except Exception:
            exchange.crashed()


def _origin_form(target: bytes) -> bytes:
    """Return path and query of a request target that is a whole URL."""
    try:
        url = httptools.parse_url(target)
    except httptools.HttpParserInvalidURLError:
        return target
    return (url.path or b"/") + (b"?" + url.query if url.query else b"")


def served(
    settings: GatewaySettings, verifier: TokenVerifier, tenants: Tenants, placements: Placements
) -> uvicorn.Config:
    """Return how the gateway is served."""
    proxy = Proxy(settings, verifier, tenants, placements)
    return configured(
        proxy.origins.guarded(Gateway(proxy)),
        settings.host,
        settings.port,
        certificate=settings.tls_certificate_file,
        key=settings.tls_key_file,
        trusted_proxies=settings.trusted_proxies,
        protocol=GatewayProtocol,
    )
