"""Quotas of a tenant's plan: what is said beyond one, and of which shares of it others are told."""

from typing import NamedTuple
from uuid import UUID

from chassis.http.problem import Problem
from chassis.messaging.outbox import Outgoing
from dotmac_contracts.envelope import Envelope
from dotmac_contracts.quota import QuotaThreshold

THRESHOLDS = (80, 100)
"""Percent."""


class Usage(NamedTuple):
    """How much of a quota is used; without a limit, it has no shares."""

    limit: int | None
    used: int

    def has_room(self, more: int = 0) -> bool:
        """Whether one may come beside those that are there, and so many more."""
        return self.limit is None or self.used + more < self.limit

    def has_reached(self, percent: int) -> bool:
        return self.limit is not None and self.used * 100 >= self.limit * percent


def crossed(before: Usage, after: Usage) -> list[int]:
    """Return the thresholds that were reached now: one that is left and reached again, again."""
    return [percent for percent in THRESHOLDS if after.has_reached(percent) and not before.has_reached(percent)]


def reached(
    kind: type[QuotaThreshold],
    tenant_id: UUID,
    before: Usage,
    after: Usage,
    version: int,
    cause: Envelope | None = None,
) -> list[Outgoing]:
    """Return the events of the thresholds that were reached now, which follow a version of their aggregate."""
    return [
        Outgoing(
            kind(tenant_id=tenant_id, percent=percent, limit=after.limit or 0, used=after.used), version + number, cause
        )
        for number, percent in enumerate(crossed(before, after), 1)
    ]


def QuotaExceeded(quota: str, usage: Usage) -> Problem:
    """409: the tenant's plan does not allow more of these."""
    detail = f"The plan allows {usage.limit:,} {quota}, and {usage.used:,} are there."
    return Problem(409, "quota-exceeded", detail, quota=quota, limit=usage.limit, used=usage.used)
