"""Count a tenant's users, invited ones too, against the quota of its plan; with the tenant locked.

The first administrator, whom a deployment or an approval makes, is never refused.
"""

from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.quotas import QuotaExceeded, Usage, reached
from chassis.service import Service
from dotmac_contracts.tenant import UserQuotaThresholdReached
from services.tenant.domain.plans import quotas_of
from services.tenant.domain.tenant import Tenant
from services.tenant.tables import save_tenant

QUOTA = "users"


async def user_added(tx: Transaction, service: Service, tenant: Tenant | None) -> None:
    """Count a user who was inserted; Problem 409 if the plan does not allow it. The platform itself has no plan."""
    if tenant is None:
        return
    after = await _usage(tx, tenant)
    before = Usage(after.limit, after.used - 1)
    if not before.has_room():
        raise QuotaExceeded(QUOTA, before)
    tenant, told = _told(tenant, before, after)
    if told:
        await save_tenant(tx, tenant)
        await publish(tx, told, source=service.source, clock=service.clock)


async def plan_changed(tx: Transaction, before: Tenant, after: Tenant) -> tuple[Tenant, list[Outgoing]]:
    """Return the tenant, which may have another plan, and what is to be told of how its users fit into that."""
    usage = await _usage(tx, after)
    return _told(after, Usage(quotas_of(before.profile.plan).users, usage.used), usage)


async def _usage(tx: Transaction, tenant: Tenant) -> Usage:
    used = await tx.fetchval("select count(*) from app_user where tenant_id = $1", tenant.id)
    return Usage(quotas_of(tenant.profile.plan).users, used)


def _told(tenant: Tenant, before: Usage, after: Usage) -> tuple[Tenant, list[Outgoing]]:
    told = reached(UserQuotaThresholdReached, tenant.id, before, after, tenant.version)
    return tenant.told(len(told)), told
