"""Register an ISP."""

from dataclasses import asdict
from typing import Any

import asyncpg

from chassis.http.problem import Conflict
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.tenant import TenantRegistered
from services.tenant.domain.tenant import Profile
from services.tenant.tables import TENANT_COLUMNS, tenant_of
from services.tenant.use_cases.transition import keep_transition


async def register_tenant(tx: Transaction, service: Service, profile: Profile, requested_by: str) -> Any:
    """Insert the tenant and tell of it; Problem 409 when the slug is taken."""
    fields = asdict(profile)
    tenant_id = new_id()
    places = ", ".join(f"${index}" for index in range(2, len(fields) + 2))
    try:
        row = await tx.fetchrow(
            f"insert into tenant (tenant_id, {', '.join(fields)}, status, version)"
            f" values ($1, {places}, 'registered', 1) returning {TENANT_COLUMNS}",
            tenant_id,
            *fields.values(),
        )
    except asyncpg.UniqueViolationError:
        raise Conflict("slug-taken", f"There is a tenant with the slug {profile.slug!r} already.") from None
    await keep_transition(tx, service.clock.now(), None, tenant_of(row), requested_by=requested_by)
    event = TenantRegistered(tenant_id=tenant_id, **fields)
    await publish(tx, [Outgoing(event, 1)], source=service.source, clock=service.clock)
    return row
