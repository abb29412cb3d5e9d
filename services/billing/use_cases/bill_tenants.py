"""Keep an account for each of the platform's tenants, subscribed to the platform's plan of its tier."""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any
from uuid import UUID

from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.subscription import Received
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.billing import BillingAccountOpened, BillingAccountUpdated, SubscriptionCancelled
from dotmac_contracts.envelope import Envelope
from dotmac_contracts.tenant import TenantSnapshot, TenantSnapshotRemoved
from services.billing.domain.platform import BILLED_FROM, next_period, plan_code
from services.billing.use_cases.close_accounts import close_accounts
from services.billing.use_cases.prepare_platform import prepare_platform
from services.billing.use_cases.subscribe import Order, subscribe


async def follow_tenants(tx: Transaction, service: Service, received: Sequence[Received[TenantSnapshot]]) -> None:
    """Open accounts of tenants that are active now, and have tiers that changed billed from the next month on."""
    await tx.set_tenants(tx.tenants | {PLATFORM_TENANT})
    await prepare_platform(tx, service)  # its API may not have started yet
    last = {item.event.tenant_id: item for item in received}
    causes = {tenant_id: item.envelope for tenant_id, item in last.items()}
    today = service.clock.now().date()
    opened = await _open(
        tx, service, [item.event for item in last.values() if item.event.status in BILLED_FROM], causes
    )
    known = [item.event for item in last.values() if item.event.tenant_id not in opened]
    open_accounts = await _update(tx, service, known, causes)
    orders = [_order(item.event, today) for item in last.values() if item.event.tenant_id in opened]
    changed = await _outdated(tx, open_accounts, last)
    await _end(tx, service, changed, next_period(today), causes)
    orders += [_order(last[row["customer_id"]].event, next_period(today)) for row in changed]
    if orders:
        await subscribe(tx, service, PLATFORM_TENANT, orders, causes)


async def forget_tenants(
    tx: Transaction, service: Service, received: Sequence[Received[TenantSnapshotRemoved]]
) -> None:
    """Close the accounts of tenants that have left; what they owe they owe."""
    await tx.set_tenants(tx.tenants | {PLATFORM_TENANT})
    await close_accounts(tx, service, {(PLATFORM_TENANT, item.event.tenant_id): item.envelope for item in received})


def _order(tenant: TenantSnapshot, started_on: date) -> Order:
    return Order(tenant.tenant_id, None, plan_code(tenant.plan), None, None, started_on)


async def _open(
    tx: Transaction, service: Service, tenants: Sequence[TenantSnapshot], causes: Mapping[UUID, Envelope]
) -> set[UUID]:
    """Open accounts of those that have none; return whose these are."""
    rows = await tx.fetch(
        "insert into billing_account (tenant_id, account_id, customer_id, external_reference, name, contact_email,"
        " currency, status, version) select $1, x.*, w.currency, 'open', 1"
        " from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[]) as x (a, c, reference, name, contact)"
        " join workspace w on w.tenant_id = $1"
        " on conflict (tenant_id, customer_id) do nothing"
        " returning tenant_id, account_id, customer_id, currency, external_reference",
        PLATFORM_TENANT,
        [new_id() for _ in tenants],
        *_facts(tenants),
    )
    told = [Outgoing(BillingAccountOpened(**dict(row)), 1, causes[row["customer_id"]]) for row in rows]
    await publish(tx, told, source=service.source, clock=service.clock)
    return {row["customer_id"] for row in rows}


async def _update(
    tx: Transaction, service: Service, tenants: Sequence[TenantSnapshot], causes: Mapping[UUID, Envelope]
) -> list[UUID]:
    """Keep what is known of whom the accounts bill; return those that are open."""
    rows = await tx.fetch(
        "update billing_account a set external_reference = x.reference, name = x.name, contact_email = x.contact,"
        " version = version + 1, updated_at = now()"
        " from unnest($2::uuid[], $3::text[], $4::text[], $5::text[]) as x (customer_id, reference, name, contact)"
        " where a.tenant_id = $1 and a.customer_id = x.customer_id"
        " and (a.external_reference, a.name, a.contact_email) is distinct from (x.reference, x.name, x.contact)"
        " returning a.tenant_id, a.account_id, a.customer_id, a.external_reference, a.version",
        PLATFORM_TENANT,
        *_facts(tenants),
    )
    told = [Outgoing(BillingAccountUpdated(**dict(row)), row["version"], causes[row["customer_id"]]) for row in rows]
    await publish(tx, told, source=service.source, clock=service.clock)
    found = await tx.fetch(
        "select account_id from billing_account where tenant_id = $1 and customer_id = any($2::uuid[])"
        " and status = 'open'",
        PLATFORM_TENANT,
        [tenant.tenant_id for tenant in tenants],
    )
    return [row["account_id"] for row in found]


def _facts(tenants: Sequence[TenantSnapshot]) -> list[list[Any]]:
    return [
        [tenant.tenant_id for tenant in tenants],
        [tenant.slug for tenant in tenants],
        [tenant.name for tenant in tenants],
        [tenant.contact_email for tenant in tenants],
    ]


async def _outdated(
    tx: Transaction, accounts: Sequence[UUID], last: Mapping[UUID, Received[TenantSnapshot]]
) -> list[Any]:
    """Return the subscriptions to plans of other tiers. Where somebody has ended one, there is none to change."""
    rows = await tx.fetch(
        "select s.subscription_id, s.account_id, a.customer_id, p.code from subscription s"
        " join billing_account a using (tenant_id, account_id) join plan p using (tenant_id, plan_id)"
        " where s.tenant_id = $1 and s.account_id = any($2::uuid[]) and s.cancelled_on is null"
        " and s.unit_price_minor is not null order by s.subscription_id for update of s",
        PLATFORM_TENANT,
        accounts,
    )
    return [row for row in rows if row["code"] != plan_code(last[row["customer_id"]].event.plan)]


async def _end(
    tx: Transaction, service: Service, subscriptions: Sequence[Any], day: date, causes: Mapping[UUID, Envelope]
) -> None:
    """End subscriptions on a day; one that had not begun yet is never billed."""
    customers = {row["subscription_id"]: row["customer_id"] for row in subscriptions}
    rows = await tx.fetch(
        "update subscription set cancelled_on = greatest($3, started_on), version = version + 1, updated_at = now()"
        " where tenant_id = $1 and subscription_id = any($2::uuid[])"
        " returning tenant_id, subscription_id, account_id, cancelled_on, version",
        PLATFORM_TENANT,
        list(customers),
        day,
    )
    told = [
        Outgoing(SubscriptionCancelled(**dict(row)), row["version"], causes[customers[row["subscription_id"]]])
        for row in rows
    ]
    await publish(tx, told, source=service.source, clock=service.clock)
