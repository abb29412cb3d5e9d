"""The steps that provisioning does itself, and the end of those that take too long."""

from datetime import timedelta

from chassis.service import Service
from services.provisioning.domain.saga import Saga
from services.provisioning.tables import lock_deployment, saga_of
from services.provisioning.targets import pooled
from services.provisioning.use_cases.advance import advance

_RETRY = timedelta(milliseconds=500)


async def work(service: Service) -> bool:
    """Look at the deployment that is due the longest; False if none is."""
    async with service.consumer_db.unscoped() as tx:
        due = await tx.fetchrow(
            "select tenant_id, deployment_id, steps, target, status, reason from deployment"
            " where next_check_at <= $1 and status = 'running' order by next_check_at limit 1",
            service.clock.now(),
        )
    if due is None:
        return False
    step = saga_of(due).current
    # Outside a transaction: the verification is a request that comes back to this platform.
    wrong = await pooled.verify(service.settings, due["tenant_id"]) if step and step.name == "verify" else None
    async with service.consumer_db.for_tenants([due["tenant_id"]]) as tx:
        row = await lock_deployment(tx, due["tenant_id"], due["deployment_id"])
        saga = saga_of(row)
        await advance(tx, service, row, _next(service, saga, step.name if step else "", wrong), retry=_RETRY)
    return True


def _next(service: Service, saga: Saga, looked_at: str, wrong: str | None) -> Saga:
    now = service.clock.now()
    if looked_at == "verify":
        if wrong is None:
            return saga.answered("verify", "self", now)
        saga = saga.noted("verify", wrong)
    return saga.timed_out(now)
