"""What a tenant's change of status means: it is saved, kept as a transition, and told of."""

from datetime import datetime
from typing import Any

from chassis.messaging.outbox import Outgoing
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.envelope import Envelope, Event
from dotmac_contracts.tenant import (
    TenantActivated,
    TenantDeploying,
    TenantDeploymentFailed,
    TenantDeprovisioned,
    TenantDeprovisioning,
    TenantDeprovisioningCancelled,
    TenantMaintenanceStarted,
    TenantResumed,
    TenantSuspended,
)
from services.tenant.domain.tenant import Status, Tenant
from services.tenant.tables import save_tenant


async def transition(
    tx: Transaction,
    service: Service,
    before: Tenant,
    after: Tenant,
    *,
    reason: str | None = None,
    requested_by: str | None = None,
    cause: Envelope | None = None,
) -> list[Outgoing]:
    """Save a locked tenant's next status, and return what is to be told of it; nothing if it has not changed."""
    if after is before:
        return []
    await save_tenant(tx, after)
    await keep_transition(tx, service.clock.now(), before.status, after, reason, requested_by)
    return [Outgoing(_event(before.status, after, reason), after.version, cause)]


def _event(before: Status, tenant: Tenant, reason: str | None) -> Event:
    ids: dict[str, Any] = {"tenant_id": tenant.id, "deployment_id": tenant.deployment_id}
    if before is Status.DEPROVISIONING and tenant.status is not Status.DEPROVISIONED:
        return TenantDeprovisioningCancelled(**ids, reason=reason, status=tenant.status)
    match tenant.status:
        case Status.DEPLOYING:
            return TenantDeploying(**ids)
        case Status.ACTIVE if before is Status.DEPLOYING:
            return TenantActivated(**ids)
        case Status.ACTIVE:
            return TenantResumed(**ids, reason=reason)
        case Status.SUSPENDED:
            return TenantSuspended(**ids, reason=reason)
        case Status.MAINTENANCE:
            return TenantMaintenanceStarted(**ids, reason=reason)
        case Status.DEPROVISIONING:
            return TenantDeprovisioning(**ids, reason=reason)
        case Status.DEPROVISIONED:
            return TenantDeprovisioned(**ids, reason=reason)
        case Status.FAILED:
            return TenantDeploymentFailed(**ids, reason=reason or "")
        case Status.REGISTERED:
            raise AssertionError("no tenant becomes registered again")


async def keep_transition(
    tx: Transaction,
    now: datetime,
    before: Status | None,
    tenant: Tenant,
    reason: str | None = None,
    requested_by: str | None = None,
) -> None:
    """Keep that a tenant went to the status that it has now, by which of its versions."""
    await tx.execute(
        "insert into tenant_transition"
        " (tenant_id, version, from_status, to_status, deployment_id, reason, requested_by, made_at)"
        " values ($1, $2, $3, $4, $5, $6, $7, $8)",
        tenant.id,
        tenant.version,
        before,
        tenant.status,
        tenant.deployment_id,
        reason,
        requested_by,
        now,
    )
