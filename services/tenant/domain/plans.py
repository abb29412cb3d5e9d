"""The platform's plans, which tenants are on, and how much each allows."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class PlanCode(StrEnum):
    STARTER = "starter"
    STANDARD = "standard"
    PREMIUM = "premium"


@dataclass(frozen=True, slots=True)
class Quotas:
    """What a plan allows; of what is None, as much as one likes."""

    customers: int | None
    """Active ones."""
    users: int | None
    api_calls_a_minute: int | None
    """Of all the tenant's users and programs together."""


PLANS: Mapping[PlanCode, Quotas] = {
    PlanCode.STARTER: Quotas(customers=1_000, users=10, api_calls_a_minute=600),
    PlanCode.STANDARD: Quotas(customers=1_000_000, users=1_000, api_calls_a_minute=None),
    PlanCode.PREMIUM: Quotas(customers=None, users=None, api_calls_a_minute=None),
}


def quotas_of(plan: str) -> Quotas:
    """Return what a plan allows. A tenant from when plans had any name may have one that is not listed: the usual."""
    return PLANS[PlanCode(plan)] if plan in PLANS else PLANS[PlanCode.STANDARD]
