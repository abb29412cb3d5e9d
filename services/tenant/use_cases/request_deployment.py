"""Order an operation on a tenant: a deployment that provisioning does."""

from uuid import UUID

from chassis.http.problem import NotFound
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.tenant import DeploymentRequested
from services.tenant.domain.tenant import GRACE_SECONDS, Operation, Refused, Target
from services.tenant.tables import lock_tenant
from services.tenant.use_cases.transition import transition

_LAST_TARGET = "select target from deployment_order where tenant_id = $1 order by deployment_id desc limit 1"


async def request_deployment(
    tx: Transaction,
    service: Service,
    tenant_id: UUID,
    requested_by: str,
    operation: Operation = Operation.DEPLOY,
    target: Target | None = None,
    reason: str | None = None,
    grace_seconds: int | None = None,
    release: str | None = None,
    instances: int | None = None,
) -> UUID:
    """Return the id of the deployment that was ordered; Refused if the tenant's state forbids it."""
    tenant = await lock_tenant(tx, tenant_id)
    if tenant is None:
        raise NotFound("tenant", tenant_id)
    deployment_id = new_id()
    if grace_seconds is None:
        grace_seconds = GRACE_SECONDS.get(operation, 0)
    ordered = tenant.order(operation, deployment_id)
    under_way = await tx.fetchrow(
        "select deployment_id, operation from deployment_order where tenant_id = $1 and ended_at is null", tenant_id
    )
    if under_way is not None:
        raise Refused(f"the deployment {under_way['deployment_id']} ({under_way['operation']}) is under way")
    last = await tx.fetchval(_LAST_TARGET, tenant_id)
    target = tenant.target(operation, target, Target(last) if last else None)
    told = await transition(tx, service, tenant, ordered, reason=reason, requested_by=requested_by)
    await tx.execute(
        "insert into deployment_order (tenant_id, deployment_id, operation, reason, grace_seconds, requested_by,"
        " version, requested_at, target) values ($1, $2, $3, $4, $5, $6, 1, $7, $8)",
        tenant_id,
        deployment_id,
        operation,
        reason,
        grace_seconds,
        requested_by,
        service.clock.now(),
        target,
    )
    profile = tenant.profile
    event = DeploymentRequested(
        deployment_id=deployment_id,
        tenant_id=tenant_id,
        slug=profile.slug,
        name=profile.name,
        target="pooled",
        dedicated_target=None if target == Target.POOLED else target,
        currency=profile.currency,
        country=profile.country,
        time_zone=profile.time_zone,
        administrator_email=profile.contact_email,
        operation=operation,
        reason=reason,
        grace_seconds=grace_seconds,
        release=release,
        instances=instances,
    )
    await publish(tx, [*told, Outgoing(event, 1)], source=service.source, clock=service.clock)
    return deployment_id
