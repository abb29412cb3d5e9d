"""The steps that provisioning does itself, and the end of those that take too long."""

import asyncio
from datetime import timedelta
from typing import Any

from chassis.service import Service
from chassis.telemetry import traces
from services.provisioning.tables import COLUMNS, cause_of, lock_deployments, saga_of
from services.provisioning.targets import pooled
from services.provisioning.use_cases.advance import Unfolding, save

_RETRY = timedelta(milliseconds=500)
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
            saga, verdict = item.saga, wrong[item.row["deployment_id"]]
            if verdict == _WELL:
                item.move(saga.done("verify", "self", now), now)
            else:
                item.move(saga.noted("verify", verdict).timed_out(now) if verdict else saga.timed_out(now), now)
        await save(tx, service, unfoldings, _RETRY)
    return True


_WELL = "verified"


async def _verify(service: Service, row: Any) -> str | None:
    """Return `_WELL`, or what is wrong; None if verifying is not what the deployment is at."""
    step = saga_of(row).current
    if step is None or (step.name, step.status) != ("verify", "running"):
        return None
    cause = cause_of(row)
    attributes = {traces.TENANT: str(row["tenant_id"]), "dotmac.deployment.id": str(row["deployment_id"])}
    with traces.span("verify a deployment", attributes, parent=cause.traceparent if cause else None):
        return await pooled.verify(service.settings, row["tenant_id"]) or _WELL
