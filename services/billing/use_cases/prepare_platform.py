"""Prepare the platform's own workspace, from which it bills its tenants."""

from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.billing import PlanPublished
from dotmac_contracts.money import Money
from services.billing.domain.platform import PLATFORM_PLANS


async def prepare(service: Service) -> None:
    """Prepare it at the start, where it is; a second time changes nothing."""
    if service.settings.dedicated_to is not None:
        return
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        await prepare_platform(tx, service)
    service.wake("platform-billing")  # who may have looked before there was a workspace to bill from


async def prepare_platform(tx: Transaction, service: Service) -> None:
    """Prepare it in a transaction of the platform's tenant, unless it is there."""
    currency = await tx.fetchval(
        # No deployment asks for it, and none is answered: so it has no version that was told.
        "insert into workspace (tenant_id, deployment_id, currency, time_zone, version) values ($1, $1, $2, 'UTC', 0)"
        " on conflict do nothing returning currency",
        PLATFORM_TENANT,
        service.settings.platform_currency,
    )
    if currency is None:
        return
    plans = [(new_id(), code, plan) for code, plan in PLATFORM_PLANS.items()]
    await tx.execute(
        "insert into plan (tenant_id, plan_id, code, name, price_minor, unit_price_minor, currency, version)"
        " select $1, *, $2, 1 from unnest($3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::bigint[])",
        PLATFORM_TENANT,
        currency,
        [plan_id for plan_id, _, _ in plans],
        [code for _, code, _ in plans],
        [plan.name for *_, plan in plans],
        [plan.price_minor for *_, plan in plans],
        [plan.unit_price_minor for *_, plan in plans],
    )
    told = [
        PlanPublished(
            plan_id=plan_id,
            tenant_id=PLATFORM_TENANT,
            code=code,
            name=plan.name,
            price=Money(amount_minor=plan.price_minor, currency=currency),
            unit_price=Money(amount_minor=plan.unit_price_minor, currency=currency),
        )
        for plan_id, code, plan in plans
    ]
    await publish(tx, [Outgoing(event, 1) for event in told], source=service.source, clock=service.clock)
