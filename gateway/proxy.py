"""What all requests share: the services, who may pass, what is under way, what is told of it."""

import asyncio
import contextlib
import ipaddress
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote
from uuid import UUID

from prometheus_client import Gauge

from chassis.security.tokens import TokenVerifier
from gateway.admission import Admission, Public
from gateway.breaker import CircuitBreaker
from gateway.edge import Origins
from gateway.notices import Notices
from gateway.observation import Observation
from gateway.placements import Placements
from gateway.routes import IMPORTS, PREFIXES, PUBLIC, SIGN_UP, STREAMS, STREAMS_BELOW, prefix_of
from gateway.settings import GatewaySettings
from gateway.streams import Streams
from gateway.tenants import Tenants
from gateway.turn import Turn
from gateway.upstream import Upstream

if TYPE_CHECKING:
    from gateway.exchange import Exchange

UNDER_WAY = Gauge("dotmac_gateway_requests_under_way", "Requests to a service that are not answered yet.", ["service"])
OPEN = Gauge("dotmac_gateway_circuit_open", "1 while a service is left alone because it did not answer.", ["service"])

_TICK_SECONDS = 0.1
_EVERYWHERE = ("0.0.0.0/0", "::/0")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Route(NamedTuple):
    """Where a request goes, and what it may be."""

    upstream: Upstream
    public: Public | None
    """Which limits hold, if it needs no token."""
    largest: int
    """Bytes that its body may have."""
    seconds: float
    """How long it may take until its answer begins."""
    stream: bool
    """Whether its answer goes on for as long as the client likes."""


class Proxy:
    """Shared by all connections of a gateway."""

    def __init__(
        self, settings: GatewaySettings, verifier: TokenVerifier, tenants: Tenants, placements: Placements
    ) -> None:
        self.settings = settings
        self._placements = placements
        self.notices = Notices(settings)
        self.admission = Admission(settings, verifier, tenants, self.notices)
        self.origins = Origins(settings.cors_origins)
        self.observation = Observation()
        self.turn = Turn()
        self.streams = Streams(settings.streams, settings.tenant_streams)
        self.under_way: set[Exchange] = set()
        self.upstreams: Mapping[str, Upstream] = {
            name: self._upstream(name, url)
            for name, url in (
                ("tenant", settings.tenant_url),
                ("customer", settings.customer_url),
                ("billing", settings.billing_url),
                ("provisioning", settings.provisioning_url),
                ("integration", settings.integration_url),
            )
        }
        self._paths = {path: self._route(path) for path in PUBLIC | IMPORTS | STREAMS}
        self._prefixes = {prefix: self._route(prefix) for prefix in PREFIXES}
        self._streams_below = {
            prefix: (end, self._prefixes[prefix]._replace(stream=True)) for prefix, end in STREAMS_BELOW.items()
        }
        self._trusted = _networks(settings.trusted_proxies or "")
        self._loop: asyncio.AbstractEventLoop
        self._ticks: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look after what is under way."""
        self._loop = asyncio.get_running_loop()
        for upstream in self.upstreams.values():
            upstream.drop_idle(self.now())
        self._ticks = asyncio.create_task(self._tick(), name="tick")
        self.notices.start()

    async def stop(self) -> None:
        """Close the connections to the services."""
        if self._ticks is not None:
            self._ticks.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticks
        for upstream in (*self.upstreams.values(), *self._placements):
            upstream.close()
        await self.admission.close()
        await self.notices.stop()
        self.observation.tell()

    def now(self) -> float:
        """Return the event loop's time, in seconds."""
        return self._loop.time()

    def trusts(self, address: str) -> bool:
        """Say whether an address is one of the proxies before the gateway."""
        if not self._trusted:
            return False
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)

    def route(self, path: bytes) -> Route | None:
        """Return where requests for a path, as it came, go; or None if that is no service."""
        text = path.decode("latin-1") if b"%" not in path else unquote(path)
        route = self._paths.get(text)
        if route is not None:
            return route
        prefix = prefix_of(text)
        below = self._streams_below.get(prefix)
        if below is not None and text.endswith(below[0]):
            return below[1]
        return self._prefixes.get(prefix)

    def placed(self, route: Route, tenant_id: UUID) -> Route:
        """Return where a tenant's requests of a route go: to an instance of its own, if it has one."""
        own = self._placements.upstream(tenant_id, route.upstream.name, self._upstream)
        return route if own is None else route._replace(upstream=own)

    def is_on_hold(self, route: Route, tenant_id: UUID) -> bool:
        """Say whether a tenant's request has to wait until the tenant was moved."""
        return route.upstream.name in self._placements.on_hold(tenant_id)

    async def moved(self, tenant_id: UUID) -> bool:
        """Wait until a tenant was moved; False if that takes too long."""
        return await self._placements.moved(tenant_id)

    def under_way_of(self, tenant_id: UUID) -> int:
        """Count the requests of a tenant that is on hold which its services had before."""
        services = self._placements.on_hold(tenant_id)
        return sum(request.is_at(services, tenant_id) for request in self.under_way)

    def _upstream(self, name: str, urls: str) -> Upstream:
        return Upstream(
            name,
            urls,
            self.turn,
            concurrency=self.settings.concurrency,
            breaker=CircuitBreaker(self.settings.breaker_failures, self.settings.breaker_seconds),
        )

    def _route(self, path: str) -> Route:
        settings, takes_file = self.settings, path in IMPORTS
        return Route(
            self.upstreams[PREFIXES[prefix_of(path)]],
            ("sign-up" if path == SIGN_UP else "public") if path in PUBLIC else None,
            settings.largest_import if takes_file else settings.largest_body,
            settings.import_seconds if takes_file else settings.upstream_seconds,
            path in STREAMS,
        )

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self.now()
            for request in tuple(self.under_way):
                request.look(now)
            for name, upstream in self.upstreams.items():
                upstream.drop_idle(now)
                UNDER_WAY.labels(name).set(upstream.under_way)
                OPEN.labels(name).set(not upstream.breaker.closed)
            for upstream in self._placements:
                upstream.drop_idle(now)
            self.observation.tell()


def _networks(listed: str) -> tuple[Network, ...]:
    """Read addresses and networks, comma-separated; * is all."""
    names = [name.strip() for name in listed.split(",") if name.strip()]
    return tuple(ipaddress.ip_network(name) for name in (_EVERYWHERE if "*" in names else names))
