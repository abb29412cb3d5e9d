"""Look at whether what was deployed is still there, and repair what is not: by a deployment, as all that is done.

A tenant whose things can't be asked for now, because a service is away, is left alone: that is no drift.
"""

import asyncio
from typing import Any
from uuid import UUID

import structlog

from chassis.ids import new_id
from chassis.service import Service
from services.provisioning.domain.saga import Saga
from services.provisioning.tables import lock_deployments
from services.provisioning.targets import pooled
from services.provisioning.use_cases.advance import Unfolding, save

log = structlog.get_logger()

_AT_ONCE = 20
_FIRST = UUID(int=0)

# The last deployment that brought a tenant up, unless it left since or something is under way.
_DEPLOYED = """
select distinct on (d.tenant_id) d.tenant_id, d.target, d.request from deployment d
where d.tenant_id > $1 and d.operation = 'deploy' and d.status = 'succeeded' and not exists (
    select 1 from deployment o where o.tenant_id = d.tenant_id
    and (o.status not in ('succeeded', 'failed') or o.operation = 'deprovision' and (
        o.status = 'succeeded' or o.failed_step in ('delete_data', 'prove_deletion', 'retire')))
) order by d.tenant_id, d.deployment_id desc limit $2
"""


async def reconcile(service: Service) -> int:
    """Look at every tenant once; return how many repairs were ordered."""
    ordered, after = 0, _FIRST
    while True:
        async with service.consumer_db.unscoped() as tx:
            deployed = await tx.fetch(_DEPLOYED, after, _AT_ONCE)
        if not deployed:
            return ordered
        missing = await asyncio.gather(*(pooled.missing(service.settings, row["tenant_id"]) for row in deployed))
        for row, what in zip(deployed, missing, strict=True):
            if what is not None:
                ordered += await _repair(service, row, what)
        after = deployed[-1]["tenant_id"]


async def _repair(service: Service, deployed: Any, missing: str) -> bool:
    """Put a repair into the queue, unless something has begun meanwhile."""
    tenant_id, deployment_id, now = deployed["tenant_id"], new_id(), service.clock.now()
    request = {**deployed["request"], "operation": "repair", "reason": missing, "grace_seconds": 0}
    async with service.consumer_db.for_tenants([tenant_id]) as tx:
        made = await tx.fetchval(
            "insert into deployment (tenant_id, deployment_id, target, operation, status, request, steps, version)"
            " select $1::uuid, $2::uuid, $3::text, 'repair', 'queued', $4::jsonb, '[]'::jsonb, 0 where not exists"
            " (select 1 from deployment where tenant_id = $1 and status not in ('succeeded', 'failed'))"
            " returning true",
            tenant_id,
            deployment_id,
            deployed["target"],
            {**request, "deployment_id": str(deployment_id)},
        )
        if not made:
            return False
        unfoldings = [Unfolding(row) for row in await lock_deployments(tx, [tenant_id], [deployment_id])]
        for item in unfoldings:
            item.move(Saga.order(deployed["target"], "repair", now), now)
        await save(tx, service, unfoldings)
    log.warning("drift_found", tenant_id=str(tenant_id), missing=missing, deployment_id=str(deployment_id))
    return True
