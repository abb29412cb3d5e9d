"""The data path: a bare ASGI endpoint that passes requests to the services and their answers back."""

import time
from collections.abc import AsyncIterator, Mapping

import aiohttp
import structlog
from limits import parse
from limits.aio.storage import MemoryStorage, RedisStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter
from multidict import CIMultiDict
from opentelemetry import trace
from opentelemetry.propagate import extract, inject
from prometheus_client import Histogram
from starlette.types import Message, Receive, Scope, Send
from yarl import URL

from chassis.http.problem import Problem
from chassis.ids import new_id
from chassis.security.tokens import InvalidToken, SigningKeysUnavailable, TokenVerifier
from gateway.routes import IMPORTS, PUBLIC, service_for
from gateway.settings import GatewaySettings

log = structlog.get_logger()
tracer = trace.get_tracer("dotmac.gateway")
REQUESTS = Histogram(
    "dotmac_gateway_request_duration_seconds", "Time to answer a request.", ["service", "method", "status"]
)

_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OURS = frozenset({b"host", b"x-request-id", b"traceparent", b"tracestate", b"x-forwarded-for", b"expect"})
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_BODILESS = frozenset({"GET", "HEAD", "OPTIONS"})

Headers = list[tuple[bytes, bytes]]


def end_to_end(headers: Headers) -> Headers:
    """Return the headers that go on: neither hop-by-hop by name, nor named by `Connection`."""
    named = {
        token.strip().lower() for name, value in headers if name.lower() == b"connection" for token in value.split(b",")
    }
    return [(name, value) for name, value in headers if name.lower() not in _HOP_BY_HOP | named]


class ClientGone(Exception):
    """The client closed its connection."""


class Proxy:
    """Passes requests on. One client session with pooled connections to all services."""

    def __init__(self, settings: GatewaySettings, verifier: TokenVerifier) -> None:
        self._settings = settings
        self._verifier = verifier
        self._upstreams: Mapping[str, str] = {
            "tenant": settings.tenant_url,
            "customer": settings.customer_url,
            "billing": settings.billing_url,
            "provisioning": settings.provisioning_url,
        }
        storage: Storage = RedisStorage(f"async+{settings.redis_url}") if settings.redis_url else MemoryStorage()
        self._limiter = FixedWindowRateLimiter(storage)
        self._limit = parse(settings.rate_limit)
        self._under_way = 0
        self._session: aiohttp.ClientSession | None = None

    @property
    def upstreams(self) -> Mapping[str, str]:
        """The services' addresses by name."""
        return self._upstreams

    @property
    def session(self) -> aiohttp.ClientSession:
        """The client session, while the gateway runs."""
        if self._session is None:
            raise RuntimeError("the gateway has not started")
        return self._session

    async def start(self) -> None:
        """Open the client session."""
        # Idle connections are dropped before the services drop theirs (75 s), or a request could meet a closed one.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=3, sock_read=self._settings.upstream_seconds)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        )

    async def stop(self) -> None:
        """Close it."""
        await self.session.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status, service = time.perf_counter(), 500, "none"
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        request_id = headers.get("x-request-id", "")
        if not (request_id.isascii() and request_id.isprintable() and 0 < len(request_id) <= 128):
            request_id = str(new_id())
        begun = False

        async def observed(message: Message) -> None:
            nonlocal status, begun
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        with tracer.start_as_current_span(
            scope["method"], context=extract(headers), kind=trace.SpanKind.SERVER
        ) as span:
            try:
                service = await self._pass(scope, receive, observed, headers, request_id)
            except Problem as problem:
                if begun:
                    raise
                await problem.response()(scope, receive, observed)
            except ClientGone:
                status = 499
            finally:
                span.set_attribute("http.response.status_code", status)
                seconds = time.perf_counter() - started
                REQUESTS.labels(service, scope["method"], status).observe(seconds)
                log.info(
                    "request",
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    milliseconds=round(seconds * 1000, 2),
                    request_id=request_id,
                )

    async def _pass(
        self, scope: Scope, receive: Receive, send: Send, headers: Mapping[str, str], request_id: str
    ) -> str:
        path: str = scope["path"]
        service = service_for(path)
        if service is None:
            raise Problem(404, "not-found", f"There is nothing at {path}.")
        address = scope["client"][0] if scope.get("client") else "unknown"
        who = address if path in PUBLIC else await self._principal(headers)
        await self._within_rate(who)
        largest = self._settings.largest_import if path in IMPORTS else self._settings.largest_body
        length = headers.get("content-length")
        if length is not None and length.isdigit() and int(length) > largest:
            raise Problem(413, "body-too-large", f"The body may have at most {largest:,} bytes.")
        if self._under_way >= self._settings.concurrency:
            raise Problem(503, "overloaded", "Too many requests are under way.", headers={"Retry-After": "1"})
        self._under_way += 1
        try:
            await self._exchange(scope, receive, send, service, largest, request_id, address)
        finally:
            self._under_way -= 1
        return service

    async def _principal(self, headers: Mapping[str, str]) -> str:
        scheme, _, token = headers.get("authorization", "").partition(" ")
        challenge = {"WWW-Authenticate": "Bearer"}
        if scheme.lower() != "bearer" or not token:
            raise Problem(401, "missing-token", "Send an access token: Authorization: Bearer …", headers=challenge)
        try:
            principal = await self._verifier.verify(token.strip())
        except InvalidToken as error:
            raise Problem(
                401, "invalid-token", f"The access token is not valid: {error}.", headers=challenge
            ) from error
        except SigningKeysUnavailable as error:
            raise Problem(503, "unavailable", "Tokens can't be verified now.", headers={"Retry-After": "1"}) from error
        return f"{principal.tenant_id}/{principal.subject}"

    async def _within_rate(self, who: str) -> None:
        if await self._limiter.hit(self._limit, who):
            return
        stats = await self._limiter.get_window_stats(self._limit, who)
        wait = max(1, round(stats.reset_time - time.time()))
        raise Problem(429, "rate-limited", "Too many requests.", headers={"Retry-After": str(wait)})

    async def _exchange(
        self, scope: Scope, receive: Receive, send: Send, service: str, largest: int, request_id: str, address: str
    ) -> None:
        method: str = scope["method"]
        query = scope["query_string"].decode("latin-1")
        target = scope["raw_path"].decode("latin-1") + (f"?{query}" if query else "")
        url = URL(self._upstreams[service] + target, encoded=True)
        headers: CIMultiDict[str] = CIMultiDict()
        forwarded = address
        for name, value in end_to_end(scope["headers"]):
            if name.lower() == b"x-forwarded-for":
                forwarded = f"{value.decode('latin-1')}, {address}"
            if name.lower() not in _OURS:
                headers.add(name.decode("latin-1"), value.decode("latin-1"))
        carrier: dict[str, str] = {}
        inject(carrier)
        headers.update({**carrier, "X-Request-ID": request_id, "X-Forwarded-For": forwarded})
        body = None if method in _BODILESS else _body(receive, largest)
        attempts = 2 if method in _IDEMPOTENT and body is None else 1
        for attempt in range(attempts):
            try:
                async with self.session.request(
                    method, url, headers=headers, data=body, allow_redirects=False
                ) as answer:
                    await _answer(answer, send, method)
                return
            except (aiohttp.ServerDisconnectedError, ConnectionResetError) as error:
                # A pooled connection that the service had closed: nothing was answered, so ask once more.
                if attempt + 1 < attempts:
                    continue
                raise Problem(502, "bad-gateway", f"The {service} service closed the connection.") from error
            except TimeoutError as error:
                raise Problem(504, "gateway-timeout", f"The {service} service took too long.") from error
            except aiohttp.ClientConnectorError as error:
                raise Problem(
                    502, "bad-gateway", f"The {service} service can't be reached.", headers={"Retry-After": "1"}
                ) from error
            except aiohttp.ClientPayloadError as error:
                raise Problem(502, "bad-gateway", f"The {service} service broke off its answer.") from error


async def _body(receive: Receive, largest: int) -> AsyncIterator[bytes]:
    taken = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        taken += len(piece)
        if taken > largest:
            raise Problem(413, "body-too-large", f"The body may have at most {largest:,} bytes.")
        if piece:
            yield piece
        if not message.get("more_body"):
            return


async def _answer(answer: aiohttp.ClientResponse, send: Send, method: str) -> None:
    headers = end_to_end([(name.lower(), value) for name, value in answer.raw_headers])
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if method != "HEAD":
        async for piece in answer.content.iter_any():
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
