"""Where tenants with instances of their own are answered, as provisioning's events tell."""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from uuid import UUID

from dotmac_contracts.envelope import Envelope, Event
from dotmac_contracts.provisioning import RouteAssigned, RouteWithdrawn
from dotmac_contracts.topics import PROVISIONING_ROUTE_SNAPSHOT
from gateway.upstream import Upstream

Connect = Callable[[str, str], Upstream]
"""Makes an upstream of a service's name and address."""


class Placements:
    """The tenants whose requests to some services go elsewhere; the others are not remembered."""

    topic = PROVISIONING_ROUTE_SNAPSHOT

    def __init__(self) -> None:
        self._assigned: dict[UUID, tuple[Mapping[str, str], int]] = {}
        self._upstreams: dict[tuple[UUID, str], tuple[str, Upstream]] = {}
        """By tenant and service, with the address; made when they are first asked."""

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
        for key in [key for key in self._upstreams if key[0] == event.tenant_id and key[1] not in addresses]:
            self._drop(key)

    def forget_expired(self, now: datetime) -> None:
        """Nothing of it expires."""

    def _drop(self, key: tuple[UUID, str]) -> None:
        known = self._upstreams.pop(key, None)
        if known is not None:
            known[1].close()
