"""Quotas of a tenant's plan: what is said beyond one, and of which shares of it others are told."""

from typing import NamedTuple

from chassis.http.problem import Problem

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


def QuotaExceeded(quota: str, usage: Usage) -> Problem:
    """409: the tenant's plan does not allow more of these."""
    detail = f"The plan allows {usage.limit:,} {quota}, and {usage.used:,} are there."
    return Problem(409, "quota-exceeded", detail, quota=quota, limit=usage.limit, used=usage.used)
