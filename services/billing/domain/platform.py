"""What the platform asks of its tenants: by plan, so much a month, and so much for each active customer."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class PlatformPlan:
    """A plan of the platform; prices a month, in minor units of the platform's currency."""

    name: str
    price_minor: int
    unit_price_minor: int
    """For each active customer."""


PLATFORM_PLANS: Mapping[str, PlatformPlan] = {
    "starter": PlatformPlan("Starter", 4_900, 25),
    "standard": PlatformPlan("Standard", 29_900, 15),
    "premium": PlatformPlan("Premium", 149_900, 10),
}
"""By the code that tenants' events know them by: something to begin with, for the platform to change."""

BILLED_FROM = frozenset({"active", "suspended", "maintenance"})
"""A tenant is billed from when it is first one of these until it has left."""


def plan_code(tier: str) -> str:
    """Return the plan for a tenant's tier; for one of any other name, from when there were such, the usual one."""
    return tier if tier in PLATFORM_PLANS else "standard"


def next_period(today: date) -> date:
    """Return the first day of the month after a day."""
    return date(today.year + today.month // 12, today.month % 12 + 1, 1)
