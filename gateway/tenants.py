"""What the gateway knows of tenants: which are closed, and how many API calls their plans allow."""

from uuid import UUID

from chassis.security.principals import Principal
from chassis.security.standing import ENTER, Standings
from dotmac_contracts.envelope import Envelope, Event
from dotmac_contracts.tenant import TenantSnapshot, TenantSnapshotRemoved


class Tenants(Standings):
    """The tenants that are closed, and those whose plan has a quota of API calls; the others are not remembered."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: dict[UUID, tuple[int, int]] = {}

    def calls_a_minute(self, principal: Principal) -> int | None:
        """Return how many requests its tenant's plan allows in a minute; None if as many as one likes.

        The platform's own programs don't count: a deployment must not fail since its tenant is busy.
        """
        found = self._calls.get(principal.tenant_id)
        return None if found is None or ENTER in principal.scopes else found[0]

    def hear(self, envelope: Envelope, event: Event) -> None:
        """Take note of a tenant's status and plan."""
        super().hear(envelope, event)
        if isinstance(event, TenantSnapshotRemoved):
            self._calls.pop(event.tenant_id, None)
        if not isinstance(event, TenantSnapshot) or event.quotas is None:
            return
        before = self._calls.get(event.tenant_id)
        if before is not None and envelope.aggregateversion < before[1]:
            return
        limit = event.quotas.api_calls_a_minute
        if limit is None:
            self._calls.pop(event.tenant_id, None)
        else:
            self._calls[event.tenant_id] = (limit, envelope.aggregateversion)
        if limit != (before[0] if before else None):
            self.version += 1
