"""The queue: so many deployments run at once at each target, and every tenant gets its turn."""

from collections.abc import Callable
from datetime import timedelta

from chassis.persistence.database import Transaction
from chassis.service import Service
from services.provisioning.domain.saga import RECIPES
from services.provisioning.tables import lock_deployments
from services.provisioning.use_cases.advance import Unfolding, save

_HANDICAP = timedelta(minutes=1)
"""By so much later a tenant's turn comes for each deployment of its that began within an hour."""

# Of a tenant one at a time, its oldest.
_NEXT = """
select tenant_id, deployment_id from (
    select distinct on (d.tenant_id) d.tenant_id, d.deployment_id, d.queued_at + $3::interval * (
        select count(*) from deployment s
        where s.tenant_id = d.tenant_id and s.started_at > $4::timestamptz - interval '1 hour'
    ) as turn
    from deployment d where d.target = $1 and d.status = 'queued' and not exists (
        select 1 from deployment r
        where r.tenant_id = d.tenant_id and r.status in ('waiting', 'running', 'compensating')
    ) order by d.tenant_id, d.queued_at, d.deployment_id
) as waiting order by turn, deployment_id limit $2
"""
# One that failed and is tried again, when others can be ordered already: what was ordered last holds, but not if the
# one before was at work again by then.
_OVERTAKEN = """
select distinct on (d.deployment_id) d.deployment_id, o.deployment_id as by
from deployment d join deployment o on o.tenant_id = d.tenant_id and o.deployment_id <> d.deployment_id
where d.tenant_id = any($1::uuid[]) and d.deployment_id = any($2::uuid[]) and o.operation not like 'repair%' and (
    o.deployment_id > d.deployment_id
    or d.operation not like 'repair%' and o.started_at >= o.queued_at
        and d.created_at between o.started_at and o.updated_at
)
order by d.deployment_id, o.deployment_id
"""


async def admit(service: Service, places: Callable[[str], int]) -> int:
    """Start the deployments whose turn it is, as many at each target as it has places; return how many."""
    return sum([await _admit(service, target, places(target)) for target in RECIPES])


async def _admit(service: Service, target: str, at_once: int) -> int:
    async with service.consumer_db.unscoped() as tx:
        if not await tx.fetchval("select 1 from deployment where target = $1 and status = 'queued' limit 1", target):
            return 0
        # Two processes that count at once would both see the same free places; or, at two targets, a tenant at rest.
        await tx.execute("select pg_advisory_xact_lock(hashtext('deployment queue'))")
        places, now = at_once - await _running(tx, target), service.clock.now()
        turn = await tx.fetch(_NEXT, target, places, _HANDICAP, now) if places > 0 else []
        tenants, deployments = [row["tenant_id"] for row in turn], [row["deployment_id"] for row in turn]
        await tx.set_tenants(tenants)
        unfoldings = [Unfolding(row) for row in await lock_deployments(tx, tenants, deployments)]
        overtaken = {row["deployment_id"]: row["by"] for row in await tx.fetch(_OVERTAKEN, tenants, deployments)}
        for item in unfoldings:
            by = overtaken.get(item.row["deployment_id"])
            if by is None or item.saga.is_final:  # then no other was ordered, nor can be
                item.move(item.saga.start(now), now)
            else:
                item.move(item.saga.cancel(f"the deployment {by} was ordered after it, or at work then", now), now)
        await save(tx, service, unfoldings)
    return len(unfoldings)


async def _running(tx: Transaction, target: str) -> int:
    count: int = await tx.fetchval(
        "select count(*) from deployment where target = $1 and status in ('running', 'compensating')", target
    )
    return count
