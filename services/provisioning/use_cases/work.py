"""The steps that provisioning does itself, and the end of those that take too long."""

import asyncio
from collections.abc import Awaitable
from datetime import datetime
from typing import Any

from chassis.service import Service
from chassis.telemetry import traces
from services.provisioning.domain.saga import Command, Recipe, Saga
from services.provisioning.tables import COLUMNS, cause_of, lock_deployments, saga_of
from services.provisioning.targets import pooled
from services.provisioning.use_cases.advance import Unfolding, save

_AT_ONCE = 20


async def work(service: Service) -> bool:
    """Look at the deployments that are due the longest; False if none is."""
    async with service.consumer_db.unscoped() as tx:
        due = await tx.fetch(
            f"select {COLUMNS} from deployment where next_check_at <= $1 order by next_check_at limit $2",
            service.clock.now(),
            _AT_ONCE,
        )
    if not due:
        return False
    # Outside a transaction: the verification is a request that comes back to this platform.
    verdicts = await asyncio.gather(*(_verify(service, row) for row in due))
    wrong = {row["deployment_id"]: verdict for row, verdict in zip(due, verdicts, strict=True)}
    tenants = {row["tenant_id"] for row in due}
    async with service.consumer_db.for_tenants(tenants) as tx:
        unfoldings = [Unfolding(row) for row in await lock_deployments(tx, tenants, wrong)]
        now = service.clock.now()
        for item in unfoldings:
            item.move(_next(item.saga, wrong[item.row["deployment_id"]], now), now)
        await save(tx, service, unfoldings, looked=True)
    return True


def _next(saga: Saga, verdict: tuple[str, str | None] | None, now: datetime) -> Saga:
    """Return what a look at a deployment leads to; what was verified may not be what it is at any more."""
    step = saga.current
    if step is not None and step.status == "running" and step.until is not None and step.until <= now:
        return saga.done(step.name, "self", now)
    if verdict is None:
        return saga.timed_out(now)
    name, wrong = verdict
    return saga.noted(name, wrong).timed_out(now) if wrong else saga.done(name, "self", now)


async def _verify(service: Service, row: Any) -> tuple[str, str | None] | None:
    """Return the name of the step that a deployment verifies by, and what is wrong if anything; None at other steps."""
    saga = saga_of(row)
    step = saga.current
    look = _look(service, row, saga.recipe(step.name)) if step is not None and step.status == "running" else None
    if step is None or look is None:
        return None
    cause = cause_of(row)
    attributes = {traces.TENANT: str(row["tenant_id"]), "dotmac.deployment.id": str(row["deployment_id"])}
    with traces.span("verify a deployment", attributes, parent=cause.traceparent if cause else None):
        return step.name, await look


def _look(service: Service, row: Any, recipe: Recipe) -> Awaitable[str | None] | None:
    """Return what a step of its own has to look at; None at other steps."""
    match recipe.do:
        case Command.VERIFY:
            return pooled.verify(service.settings, row["tenant_id"])
        case Command.VERIFY_OPEN:
            return pooled.verify_open(service.settings, row["tenant_id"])
        case Command.VERIFY_CLOSED:
            return pooled.verify_closed(service.settings, row["tenant_id"], recipe.status or "")
        case _:
            return None
