"""What a deployment would do, and how long that took before."""

from dataclasses import dataclass
from datetime import timedelta

from chassis.persistence.database import Transaction
from services.provisioning.domain.saga import GRACE, recipes_of

_REMEMBERED = 200
"""So many of the last deployments of the same kind say how long the next one will take."""

_HISTORY = """
select step->>'name' as name, count(*) as deployments, percentile_cont(0.5) within group (order by extract(epoch from
    (step->>'finished_at')::timestamptz - (step->>'started_at')::timestamptz)) as seconds
from (select steps from deployment where target = $1 and operation = $2 and status = 'succeeded'
    order by updated_at desc limit $3) as last, jsonb_array_elements(steps) as step
group by 1
"""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """A step of a plan. `expected` is the median of those that succeeded; None if there was none yet."""

    name: str
    expected: timedelta | None
    timeout: timedelta
    can_be_undone: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a deployment, in their order, and how many deployments their expected times are known from."""

    steps: tuple[PlannedStep, ...]
    known_from: int


async def plan(tx: Transaction, target: str, operation: str, grace: timedelta) -> Plan:
    """Return the plan of an operation; Unknown if there is none such."""
    recipes = [recipe for recipe in recipes_of(target, operation) if grace or recipe is not GRACE]
    rows = {row["name"]: row for row in await tx.fetch(_HISTORY, target, operation, _REMEMBERED)}
    steps = []
    for recipe in recipes:
        known = rows.get(recipe.name)
        expected = timedelta(seconds=float(known["seconds"])) if known else None
        if recipe is GRACE:
            expected = grace
        steps.append(PlannedStep(recipe.name, expected, recipe.timeout, recipe.undo is not None))
    return Plan(tuple(steps), max((row["deployments"] for row in rows.values()), default=0))
