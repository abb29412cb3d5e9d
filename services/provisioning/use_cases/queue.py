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


async def admit(service: Service, places: Callable[[str], int]) -> int:
    """Start the deployments whose turn it is, as many at each target as it has places; return how many."""
    return sum([await _admit(service, target, places(target)) for target in RECIPES])


async def _admit(service: Service, target: str, at_once: int) -> int:
    async with service.consumer_db.unscoped() as tx:
        if not await tx.fetchval("select 1 from deployment where target = $1 and status = 'queued' limit 1", target):
            return 0
        # Two processes that count at once would both see the same free places.
        await tx.execute("select pg_advisory_xact_lock(hashtext('deployment queue'), hashtext($1))", target)
        places, now = at_once - await _running(tx, target), service.clock.now()
        turn = await tx.fetch(_NEXT, target, places, _HANDICAP, now) if places > 0 else []
        tenants, deployments = [row["tenant_id"] for row in turn], [row["deployment_id"] for row in turn]
        await tx.set_tenants(tenants)
        unfoldings = [Unfolding(row) for row in await lock_deployments(tx, tenants, deployments)]
        for item in unfoldings:
            item.move(item.saga.start(now), now)
        await save(tx, service, unfoldings)
    return len(unfoldings)


async def _running(tx: Transaction, target: str) -> int:
    count: int = await tx.fetchval(
        "select count(*) from deployment where target = $1 and status in ('running', 'compensating')", target
    )
    return count
