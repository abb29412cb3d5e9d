"""Which tenants are closed to their users, as the tenant service's snapshots tell; see `following`.

Only those that are closed are remembered, so that a platform of many tenants costs each process little.
"""

from datetime import datetime
from uuid import UUID

from chassis.security.principals import Principal
from dotmac_contracts.envelope import Envelope, Event
from dotmac_contracts.tenant import TenantSnapshot, TenantSnapshotRemoved
from dotmac_contracts.topics import TENANT_SNAPSHOT

ENTER = "tenants:enter"
"""The scope of the platform's own programs, which work on a tenant that is closed. No role has it."""

CLOSED = {
    "suspended": ("tenant-suspended", "The tenant is suspended."),
    "maintenance": ("tenant-in-maintenance", "The tenant is in maintenance. Try again later."),
    "deprovisioning": ("tenant-deprovisioning", "The tenant is leaving the platform."),
    "deprovisioned": ("tenant-deprovisioned", "The tenant has left the platform."),
}
"""The kind of problem and its detail, by each status in which a tenant's users are refused."""


class TenantClosed(Exception):
    """The tenant's users are refused; `status` says why."""

    def __init__(self, status: str) -> None:
        self.status = status
        self.slug, self.detail = CLOSED[status]
        super().__init__(self.detail)


def require_open(status: str | None) -> None:
    """Raise TenantClosed for a status in which a tenant's users are refused."""
    if status in CLOSED:
        raise TenantClosed(status)


class Standings:
    """The tenants that are closed."""

    topic = TENANT_SNAPSHOT

    def __init__(self) -> None:
        self.version = 0
        """Grows when a tenant is closed, or opened: who remembers a principal looks again when it has."""
        self._closed: dict[UUID, tuple[str, int]] = {}

    def require_open(self, principal: Principal) -> None:
        """Raise TenantClosed if the principal's tenant is closed, and the principal is none of the platform's."""
        found = self._closed.get(principal.tenant_id)
        if found is not None and ENTER not in principal.scopes:
            raise TenantClosed(found[0])

    def is_closed(self, tenant_id: UUID) -> bool:
        """Say whether a tenant's users are refused."""
        return tenant_id in self._closed

    def hear(self, envelope: Envelope, event: Event) -> None:
        """Take note of a tenant's status. An earlier one than what is known, read again, opens no closed tenant."""
        if isinstance(event, TenantSnapshot):
            status = event.status
        elif isinstance(event, TenantSnapshotRemoved):
            status = "deprovisioned"
        else:
            return
        before = self._closed.get(event.tenant_id)
        if before is not None and envelope.aggregateversion < before[1]:
            return
        if status in CLOSED:
            self._closed[event.tenant_id] = (status, envelope.aggregateversion)
        elif before is not None:
            del self._closed[event.tenant_id]
        else:
            return
        if before is None or before[0] != status:
            self.version += 1

    def forget_expired(self, now: datetime) -> None:
        """Nothing of it expires."""
