"""One request and its answer, on their way between a client's connection and a service's.

Both connections call what is here when something has come, and nothing waits, but for what has to be asked for: a new
connection, an unknown token, a shared limit. So there is no queue between the two sides: one that takes no more pauses
the reading of the other, and when one ends so does the other.
"""

import asyncio
import time
from collections.abc import Collection, Sequence
from email.utils import formatdate
from typing import Literal, Protocol
from uuid import UUID

import structlog
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl

from chassis.http import headers as security
from chassis.http.deadline import DEADLINE, seconds_left
from chassis.http.observation import answered, known_method
from chassis.http.problem import Moving, Problem
from chassis.http.requests import refusal
from chassis.security.principals import Principal
from chassis.security.standing import ENTER
from chassis.telemetry import busy, traces
from gateway.admission import Caller
from gateway.heads import Headers, RequestHead, answer_head
from gateway.observation import Seen
from gateway.proxy import Proxy, Route
from gateway.upstream import Connection

log = structlog.get_logger()

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_LINGER_SECONDS = 5.0
_CLIENT_CLOSED_REQUEST = 499
"""What the log says where the client went away; nginx's number, for nobody is left to be told."""


class Client(Protocol):
    """The connection that a request came over."""

    transport: asyncio.Transport
    flow: FlowControl
    caller: Caller | None
    """Whom the last request was from, so that the next one's token need not be looked up."""

    @property
    def peer(self) -> str:
        """The address at its other end."""

    @property
    def scheme(self) -> Literal["http", "https"] | None:
        """Over what it came."""

    @property
    def understands_chunks(self) -> bool:
        """Whether an answer may be sent in chunks: HTTP/1.0 does not know them."""

    def on_response_complete(self) -> None:
        """Go on with the next request."""


class Exchange:
    """A request from its head on, until it is answered."""

    # What is so at first, kept by the class: most requests change little of it.
    _received = 0
    _received_all = _started = _entered = _told = _retried = _answering = _chunked = _moved = False
    _task: asyncio.Task[None] | None = None
    _principal: Principal | None = None
    _status = _CLIENT_CLOSED_REQUEST
    _streams = False
    _took: float | None = None
    _budget = _ends_at = 0.0
    sent = False
    response_complete = False
    """By this name, and `keep_alive`, uvicorn knows what a connection is working on."""

    def __init__(
        self,
        proxy: Proxy,
        client: Client,
        route: Route,
        method: str,
        path: bytes,
        target: bytes,
        headers: Headers,
        *,
        keep_alive: bool,
        expects_continue: bool,
    ) -> None:
        """`target` is `path` and query, as they came."""
        self._began = time.perf_counter()
        busy.HTTP.begin()
        self._proxy = proxy
        self._client = client
        self._route = route
        self._path = path
        self._target = target
        self._head = head = RequestHead(headers)
        self._expects_continue = expects_continue
        self._pending: list[bytes] = []
        self._connection: Connection | None = None
        self.method = method
        self.head_only = method == "HEAD"
        self.keep_alive = keep_alive
        self._address, self._scheme = client.peer, client.scheme or "http"
        facts = head.facts
        traceparent = facts.get(b"traceparent")
        self._traceparent, self._span = traces.begin(
            traceparent.decode("latin-1") if traceparent else None, method, edge=True
        )
        self._request_id = head.request_id or self._traceparent[3:35].encode()
        self._fields = b"x-request-id: %b\r\n" % self._request_id
        if proxy.origins:
            self._fields += proxy.origins.fields(facts.get(b"origin"))

    # What comes from the client

    def body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        if self.response_complete:
            return  # it was answered without it
        self._received += len(piece)
        if self._received > self._route.largest:
            self._fail(_too_large(self._route.largest))
        elif self._head.chunked:
            self._pending += (b"%x\r\n" % len(piece), piece, b"\r\n")
        else:
            self._pending.append(piece)

    def body_ends(self) -> None:
        """Take note that all of it has come."""
        self._received_all = True
        if self.response_complete:
            self._proxy.turn.close(self._client.transport)
        elif self._head.chunked:
            self._pending.append(b"0\r\n\r\n")

    def go_on(self) -> None:
        """Pass on what has come; the first time, decide whether the request may pass at all."""
        if not self._started:
            self._start()
        elif self._connection is not None:
            self._send_body(self._connection)
        elif self._received > HIGH_WATER_LIMIT and not self.response_complete:
            self._client.flow.pause_reading()

    def may_receive(self, may: bool) -> None:
        """The client takes no more of the answer for now, or does again."""
        self._moved = True  # the service had no chance to go on
        if self._connection is not None:
            self._connection.read(may)

    def client_lost(self) -> None:
        """The client has gone: nobody waits for the answer."""
        if not self.response_complete:
            self._drop_connection()
            self._received_all = True
            self._finish()
        self._proxy.under_way.discard(self)

    # What comes from the service

    def answered(self, connection: Connection, pieces: Sequence[bytes], complete: bool) -> None:
        """Pass on what has come of the answer."""
        client = self._client
        if complete:
            self._connection = None
        if self._answering:
            out: list[bytes] = []
        else:
            self._answering = self._told = True
            self._route.upstream.breaker.succeeded()
            self._status = connection.status
            out, self._chunked, self.keep_alive = answer_head(
                self._status,
                connection.headers,
                self._fields,
                unless_said=security.fields(self._scheme),
                chunks=client.understands_chunks,
                bodiless=self.head_only,
                keep_alive=self.keep_alive and self._received_all,
            )
            if self._streams and self._status == 200:
                self._answering_ends()
        self._moved = True
        if self._chunked:
            for piece in pieces:
                out += (b"%x\r\n" % len(piece), piece, b"\r\n")
            if complete:
                out.append(b"0\r\n\r\n")
        else:
            out += pieces
        if out:
            self._proxy.turn.write(client.transport, b"".join(out))
        if complete:
            self._finish()

    def unanswered(self, connection: Connection, reason: str) -> None:
        """Ask once more if that can do no harm, else tell the client."""
        self._connection = None
        if (
            connection.silent
            and connection.reused
            and not self._retried
            and not self._head.has_body
            and self.method in _IDEMPOTENT
        ):
            # The service had closed an idle connection just when it was taken: the request has reached nobody.
            self._retried = True
            self._connect()
            return
        log.warning(
            "upstream_broke_off", upstream=self._route.upstream.name, reason=reason, request_id=self._request_id
        )
        if self._received_all:  # else the service may have had enough of a slow client, which is no failure
            self._service_failed()
        self._fail(Problem(502, "bad-gateway", f"The {self._route.upstream.name} service broke off its answer."))

    def may_send(self, may: bool) -> None:
        """The service takes no more of the request for now, or does again."""
        if not self.response_complete:
            self._let_client_send(may)

    # What else may happen

    def is_at(self, services: Collection[str], tenant_id: UUID) -> bool:
        """Say whether one of these services works on it, for this tenant."""
        mine = self._principal is not None and self._principal.tenant_id == tenant_id
        return mine and self._entered and not self.response_complete and self._route.upstream.name in services

    def end_stream(self) -> None:
        """End an answer that would go on, if this is one: its client is to ask another gateway."""
        if self._took is None or self.response_complete:
            return
        self._drop_connection()
        if self._chunked:
            self._proxy.turn.write(self._client.transport, b"0\r\n\r\n")
        self._received_all, self.keep_alive = True, False
        self._finish()

    def crashed(self) -> None:
        """Answer for an exception that nobody expected; called while it is handled."""
        log.exception("unhandled_error", request_id=self._request_id.decode())
        self._fail(Problem(500, "internal-error", "Something went wrong here; it has been logged."))

    def look(self, now: float) -> None:
        """End what has taken too long. `now`: the event loop's time."""
        if self._moved:
            self._moved, self._ends_at = False, now + self._route.seconds
        if now < self._ends_at or (self._answering and self._client.flow.write_paused and not self.response_complete):
            return
        if self.response_complete:
            self._proxy.under_way.discard(self)
            self._proxy.turn.close(self._client.transport)
            return
        if self._budget == self._route.seconds and self._received_all:
            self._service_failed()
        self._fail(Problem(504, "gateway-timeout", f"The {self._route.upstream.name} service took too long."))

    # Steps

    def _believe_proxies(self) -> None:
        """Take address and scheme from what the proxies before the gateway say of the client."""
        facts = self._head.facts
        for hop in reversed(facts.get(b"x-forwarded-for", b"").decode("latin-1").split(",")):
            self._address = hop.strip() or self._address
            if not self._proxy.trusts(self._address):
                break
        scheme = facts.get(b"x-forwarded-proto")
        if scheme in (b"http", b"https"):
            self._scheme = "https" if scheme == b"https" else "http"

    def _start(self) -> None:
        self._started = True
        if self._client.transport.is_closing():
            self._received_all = True
            self._finish()
            return
        now = self._proxy.now()
        self._budget = self._route.seconds
        facts = self._head.facts
        left = seconds_left(facts.get(DEADLINE))
        if left is not None:
            self._budget = min(left, self._budget)
        if self._proxy.trusts(self._client.peer):
            self._believe_proxies()
        self._ends_at = now + self._budget
        self._proxy.under_way.add(self)
        try:
            refused = refusal(self._path, facts.get(b"content-encoding"))
            if refused is not None:
                raise refused
            if self._head.length > self._route.largest:
                raise _too_large(self._route.largest)
            admitted = self._proxy.admission.at_once(
                self._address, facts.get(b"authorization"), self._route.public, self._client.caller
            )
            if admitted is None:
                self._task = asyncio.create_task(self._ask_for_admission())
            else:
                self._forward(*admitted)
        except Problem as problem:
            self._fail(problem)

    async def _ask_for_admission(self) -> None:
        admission = self._proxy.admission
        try:
            authorization = self._head.facts.get(b"authorization")
            self._forward(*await admission.wait(self._address, authorization, self._route.public))
        except Problem as problem:
            self._fail(problem)
        except Exception:
            self.crashed()

    def _forward(self, fields: bytes, caller: Caller | None) -> None:
        self._fields += fields
        if caller is not None:
            self._client.caller = caller
            self._principal = principal = caller.principal
            if self._proxy.is_on_hold(self._route, principal.tenant_id):
                if ENTER in principal.scopes:  # who moves it wants to know that the others wait
                    raise Moving(under_way=self._proxy.under_way_of(principal.tenant_id))
                self._task = asyncio.create_task(self._wait_for_the_move(principal.tenant_id))
                return
            self._route = self._proxy.placed(self._route, principal.tenant_id)
        self._pass_on()

    async def _wait_for_the_move(self, tenant_id: UUID) -> None:
        try:
            if not await self._proxy.moved(tenant_id):
                raise Moving()
            self._route = self._proxy.placed(self._route, tenant_id)
            self._pass_on()
        except Problem as problem:
            self._fail(problem)
        except Exception:
            self.crashed()

    def _pass_on(self) -> None:
        upstream = self._route.upstream
        if self._route.stream and self._principal is not None:
            self._proxy.streams.enter(self._principal.tenant_id)
            self._streams = True
        upstream.enter(self._proxy.now())
        self._entered = True
        connection = upstream.idle_connection()
        if connection is None:
            self._connect()
        else:
            self._send(connection)

    def _connect(self) -> None:
        self._task = asyncio.create_task(self._send_over_new_connection())

    async def _send_over_new_connection(self) -> None:
        try:
            connection = await self._route.upstream.connect()
        except (OSError, TimeoutError) as error:
            log.warning(
                "upstream_unreachable", upstream=self._route.upstream.name, reason=str(error) or type(error).__name__
            )
            self._service_failed()
            detail = f"The {self._route.upstream.name} service can't be reached."
            self._fail(Problem(502, "bad-gateway", detail, headers={"Retry-After": "1"}))
        except Exception:
            self.crashed()
        else:
            self._send(connection)

    def _send(self, connection: Connection) -> None:
        head, client = self._head, self._client
        self._connection = connection
        connection.begin(self)
        if client.flow.write_paused:
            connection.read(False)  # it has not taken in the answer before yet
        self._pending[:0] = [
            b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (self.method.encode(), self._target, self._route.upstream.authority),
            *head.fields,
            b"x-request-id: %b\r\ntraceparent: %b\r\nx-forwarded-for: %b\r\nx-forwarded-proto: %b\r\n%b: %d\r\n%b\r\n"
            % (
                self._request_id,
                self._traceparent.encode(),
                # The client's alone, as far as it is believed: what else was said of it is anybody's claim.
                self._address.encode("latin-1", "replace"),
                self._scheme.encode(),
                DEADLINE,
                max(1, (self._ends_at - self._proxy.now()) * 1000),
                b"transfer-encoding: chunked\r\n" if head.chunked else b"",
            ),
        ]
        if self._expects_continue and not self._received:
            self._proxy.turn.write(client.transport, b"HTTP/1.1 100 Continue\r\n\r\n")
        self._send_body(connection)
        self._let_client_send(True)

    def _send_body(self, connection: Connection) -> None:
        if self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            self.sent = self._received_all
            connection.write(data)

    def _let_client_send(self, may: bool) -> None:
        if self._client.transport.is_closing():
            return
        if may:
            self._client.flow.resume_reading()
        else:
            self._client.flow.pause_reading()

    def _service_failed(self) -> None:
        if self._entered and not self._told:
            self._told = True
            self._route.upstream.breaker.failed(self._proxy.now())

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _fail(self, problem: Problem) -> None:
        """Answer with a problem; where an answer has begun, break it off so that it can't be taken for whole."""
        if self.response_complete:
            return
        self._drop_connection()
        self._pending.clear()
        if self._answering:
            self._received_all, self.keep_alive = True, False
        else:
            self._answering = True
            response = problem.response()
            self._status = response.status_code
            head, _, self.keep_alive = answer_head(
                self._status,
                response.raw_headers,
                self._fields,
                unless_said=(*security.fields(self._scheme), (b"date", formatdate(usegmt=True).encode())),
                chunks=False,
                bodiless=self.head_only,
                keep_alive=self.keep_alive and self._received_all,
            )
            body = b"" if self.head_only else bytes(response.body)
            self._proxy.turn.write(self._client.transport, b"".join([*head, body]))
        self._finish()

    def _answering_ends(self) -> None:
        """Take note that the answer is there, or goes on: then it is no more among those that are under way."""
        if self._took is None:
            self._took = time.perf_counter() - self._began
            busy.HTTP.end()
            if self._entered:
                self._route.upstream.leave(told=self._told)

    def _finish(self) -> None:
        self.response_complete = True
        self._answering_ends()
        self._proxy.under_way.discard(self)
        if self._streams and self._principal is not None:
            self._proxy.streams.leave(self._principal.tenant_id)
        self._proxy.observation.keep(
            Seen(
                time.time(),
                self._took or 0.0,
                self.method,
                self._path,
                self._status,
                self._route.upstream.name,
                self._address,
                self._request_id,
                self._traceparent,
                self._principal,
            )
        )
        if self._span is not None:
            self._span.update_name(f"{known_method(self.method)} {self._route.upstream.name}")
            if self._principal is not None:
                self._span.set_attribute(traces.TENANT, str(self._principal.tenant_id))
            answered(self._span, self._status)
            self._span.end()
        client = self._client
        if client.transport.is_closing():
            return
        if self._received_all:
            if self.keep_alive:
                client.on_response_complete()
            else:
                self._proxy.turn.close(client.transport)
        else:
            # What is left of the body is read and dropped for a while: to close at once would reset the connection,
            # and the client might lose the answer that it has not read yet.
            self._ends_at = self._proxy.now() + _LINGER_SECONDS
            self._moved = False
            self._proxy.under_way.add(self)
            client.flow.resume_reading()


def _too_large(largest: int) -> Problem:
    return Problem(413, "body-too-large", f"The body may have at most {largest:,} bytes.")
