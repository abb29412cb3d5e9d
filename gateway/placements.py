"""Where tenants with instances of their own are answered, as provisioning's events tell.

While a tenant is moved, its requests wait here for the next that is told, so that its users see nothing of it.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from uuid import UUID

from dotmac_contracts.envelope import Envelope, Event
from dotmac_contracts.provisioning import RouteAssigned, RouteWithdrawn
from dotmac_contracts.topics import PROVISIONING_ROUTE_SNAPSHOT
from gateway.upstream import Upstream

_HELD_SECONDS = 10.0
_MOST_HELD = 1_000

Connect = Callable[[str, str], Upstream]
"""Makes an upstream of a service's name and address."""


class Placements:
    """The tenants whose requests to some services go elsewhere; the others are not remembered."""

    topic = PROVISIONING_ROUTE_SNAPSHOT

    def __init__(self) -> None:
        self._assigned: dict[UUID, tuple[Mapping[str, str], int]] = {}
        self._upstreams: dict[tuple[UUID, str], tuple[str, Upstream]] = {}
        """By tenant and service, with the address; made when they are first asked."""
        self._on_hold: dict[UUID, tuple[frozenset[str], asyncio.Event]] = {}
        self._waiting = 0

    def upstream(self, tenant_id: UUID, service: str, connect: Connect) -> Upstream | None:
        """Return the tenant's own instance of a service, if it has one."""
        assigned = self._assigned.get(tenant_id)
        address = assigned[0].get(service) if assigned else None
        if address is None:
            return None
        key = tenant_id, service
        known = self._upstreams.get(key)
        if known is None or known[0] != address:
            self._drop(key)
            known = self._upstreams[key] = address, connect(service, address)
        return known[1]

    def on_hold(self, tenant_id: UUID) -> frozenset[str]:
        """Return the services that a tenant's requests have to wait for."""
        held = self._on_hold.get(tenant_id)
        return held[0] if held else frozenset()

    async def moved(self, tenant_id: UUID) -> bool:
        """Wait for a tenant that is on hold; False if there is no waiting any longer, or too many wait."""
        if self._waiting >= _MOST_HELD:
            return False
        self._waiting += 1
        try:
            async with asyncio.timeout(_HELD_SECONDS):
                while (held := self._on_hold.get(tenant_id)) is not None:
                    await held[1].wait()
        except TimeoutError:
            return False
        finally:
            self._waiting -= 1
        return True

    def __iter__(self) -> Iterator[Upstream]:
        return (upstream for _, upstream in self._upstreams.values())

    def hear(self, envelope: Envelope, event: Event) -> None:
        """Take note of a route. An earlier one than what is known, read again, changes nothing."""
        if not isinstance(event, RouteAssigned | RouteWithdrawn):
            return
        before = self._assigned.get(event.tenant_id)
        if before is not None and envelope.aggregateversion < before[1]:
            return
        addresses = event.addresses if isinstance(event, RouteAssigned) else {}
        self._assigned[event.tenant_id] = addresses, envelope.aggregateversion
        self._hold(event)
        for key in [key for key in self._upstreams if key[0] == event.tenant_id and key[1] not in addresses]:
            self._drop(key)

    def forget_expired(self, now: datetime) -> None:
        """Nothing of it expires."""

    def _hold(self, event: RouteAssigned | RouteWithdrawn) -> None:
        before = self._on_hold.pop(event.tenant_id, None)
        if isinstance(event, RouteAssigned) and event.on_hold:
            self._on_hold[event.tenant_id] = frozenset(event.on_hold), asyncio.Event()
        if before is not None:
            before[1].set()

    def _drop(self, key: tuple[UUID, str]) -> None:
        known = self._upstreams.pop(key, None)
        if known is not None:
            known[1].close()
