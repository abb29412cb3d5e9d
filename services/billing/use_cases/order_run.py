"""Order a billing run, which a worker then does."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from chassis.http.problem import Conflict
from chassis.ids import PLATFORM_TENANT, new_id
from chassis.persistence.database import Transaction
from chassis.security.actors import current
from chassis.service import Service
from chassis.telemetry import traces
from services.billing.domain.period import Period

_MARGIN = timedelta(hours=1)
"""After a month has ended: what was begun in it is committed by then, and every machine's clock is past it."""


async def order_run(tx: Transaction, service: Service, tenant_id: UUID, period: Period) -> Any:
    """Return the row of the run, ordered by whoever acts now.

    Problem 409 if the tenant has no workspace, or if it is the platform and the month is not over.
    """
    # Who is billed for a month is not billed for it again, so customers that a tenant has later in it would be free.
    if tenant_id == PLATFORM_TENANT and not period.is_over(service.clock.now().date()):
        raise Conflict("period-not-over", "The platform bills a month once it is over, by UTC.")
    # Held, so that whoever looks whether there is a run for a month waits to see this one.
    currency = await tx.fetchval(
        "select currency from workspace where tenant_id = $1 and removed_at is null for key share", tenant_id
    )
    if currency is None:
        raise Conflict("not-deployed", "The tenant has no workspace: deploy it first.")
    return await tx.fetchrow(
        "insert into billing_run (tenant_id, run_id, period_start, period_end, status, currency, traceparent, actor)"
        " values ($1, $2, $3, $4, 'queued', $5, $6, $7) returning *",
        tenant_id,
        new_id(),
        period.start,
        period.end,
        currency,
        traces.here(),
        current().stored(),
    )


async def order_platform_run(service: Service) -> bool:
    """Have the platform's tenants billed for the last month, unless somebody ordered that; False if so."""
    period = Period.before((service.clock.now() - _MARGIN).date())
    async with service.consumer_db.for_tenants([PLATFORM_TENANT]) as tx:
        # In a statement of its own, so that the next one sees what its last holder ordered.
        held = await tx.fetchval(
            "select true from workspace where tenant_id = $1 and removed_at is null for update", PLATFORM_TENANT
        )
        if not held:  # there is none before the service's first start
            return False
        ordered = await tx.fetchval(
            "select exists (select from billing_run where tenant_id = $1 and period_start = $2)",
            PLATFORM_TENANT,
            period.start,
        )
        if ordered:
            return False
        await order_run(tx, service, PLATFORM_TENANT, period)
    service.wake("billing-runs")
    return True
