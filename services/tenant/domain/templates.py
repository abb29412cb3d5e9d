"""Templates of deployments: what an order says by naming one, and what of it the order may say otherwise."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from services.tenant.domain.values import Number

PREFIX_PATTERN = "^[A-Z][A-Z0-9]{0,9}$"
"""What the numbers of invoices may begin with."""
PLAN_CODE_PATTERN = "^[A-Za-z0-9_.-]{1,40}$"
MOST_PLANS = 50
PRICE = Number(0, 10**15)
"""A month, in minor units of the tenant's currency."""
STARTER_PLANS = "starter_plans"


def problems(declared: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
    """Return why parameters can't be given where these are declared, by JSON Pointer; none if they can."""
    found = {f"/{name}": "the template has no such parameter" for name in given if name not in declared}
    times = Counter(plan["code"] for plan in given.get(STARTER_PLANS, ()))
    if twice := sorted(code for code, count in times.items() if count > 1):
        found[f"/{STARTER_PLANS}"] = f"more than one plan has the code {', '.join(twice)}"
    return found


def resolved(declared: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an order: the template's own, but for those that the order gives."""
    return {**declared, **given}
