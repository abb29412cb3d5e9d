"""Change what is known of an ISP."""

from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

from starlette.requests import Request

from chassis.http.preconditions import require_match
from chassis.http.problem import NotFound
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.tenant import TenantUpdated
from services.tenant.domain.tenant import Tenant
from services.tenant.tables import lock_tenant, save_tenant
from services.tenant.use_cases.count_users import plan_changed


async def update_tenant(
    tx: Transaction, service: Service, request: Request, tenant_id: UUID, changes: dict[str, Any]
) -> Any:
    """Apply the changes to the version that the caller read."""
    tenant = await lock_tenant(tx, tenant_id)
    if tenant is None:
        raise NotFound("tenant", tenant_id)
    require_match(request, tenant.version)
    updated, outgoing = await with_profile(tx, tenant, changes)
    row = await save_tenant(tx, updated)
    await publish(tx, outgoing, source=service.source, clock=service.clock)
    return row


async def with_profile(tx: Transaction, tenant: Tenant, changes: dict[str, Any]) -> tuple[Tenant, list[Outgoing]]:
    """Return a locked tenant with another profile, which is not saved yet, and what is to be told of it."""
    updated = tenant.update(replace(tenant.profile, **changes))
    if updated.version == tenant.version:
        return tenant, []
    event = TenantUpdated(tenant_id=tenant.id, **asdict(updated.profile))
    counted, told = await plan_changed(tx, tenant, updated)
    return counted, [Outgoing(event, updated.version), *told]
