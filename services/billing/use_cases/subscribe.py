"""Subscribe accounts to plans: any number of orders in a few statements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from uuid import UUID

from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.billing import SubscriptionActivated
from dotmac_contracts.envelope import Envelope
from services.billing.tables import prices

_EARLIEST, _LATEST = date(2000, 1, 1), date(2100, 1, 1)


@dataclass(frozen=True, slots=True)
class Order:
    """What is ordered: for which customer, which plan, at which price if not the plan's, from which day."""

    customer_id: UUID | None
    customer_external_reference: str | None
    plan_code: str
    price_minor: int | None
    currency: str | None
    started_on: date | None


@dataclass(frozen=True, slots=True)
class Subscribed:
    """What became of the orders. `ids` has the subscription of each order, new or old, None for a rejected one."""

    created: int
    unchanged: int
    rejected: list[tuple[int, str]]
    ids: list[UUID | None]


async def subscribe(
    tx: Transaction,
    service: Service,
    tenant_id: UUID,
    orders: Sequence[Order],
    causes: Mapping[UUID, Envelope] | None = None,
) -> Subscribed:
    """Activate what can be activated; a plan that an account has already stays as it is.

    causes: by customer, the event that the order follows from, if it does from one.
    """
    found_plans = await tx.fetch(
        "select plan_id, code, price_minor, unit_price_minor, currency from plan where tenant_id = $1", tenant_id
    )
    plans = {row["code"]: row for row in found_plans}
    accounts = await _lock_accounts(tx, tenant_id, orders)
    chosen: dict[tuple[UUID, UUID], tuple[int, UUID, Any, Any, Order]] = {}
    rejected: list[tuple[int, str]] = []
    pairs: list[tuple[UUID, UUID] | None] = []
    for index, order in enumerate(orders):
        account = accounts.get(order.customer_id or order.customer_external_reference)
        plan = plans.get(order.plan_code)
        reason = _refusal(order, account, plan)
        if reason or account is None or plan is None:
            rejected.append((index, reason or ""))
            pairs.append(None)
            continue
        pair = (account["account_id"], plan["plan_id"])
        pairs.append(pair)
        chosen.setdefault(pair, (index, new_id(), account, plan, order))
    first_of_month = service.clock.now().date().replace(day=1)
    new = list(chosen.values())
    rows = await tx.fetch(
        "insert into subscription"
        " (tenant_id, subscription_id, account_id, plan_id, price_minor, unit_price_minor, currency, started_on,"
        " version)"
        " select $1, *, 1 from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[], $6::bigint[], $7::text[],"
        " $8::date[])"
        " on conflict (tenant_id, account_id, plan_id) where cancelled_on is null do nothing"
        " returning subscription_id, account_id, plan_id, price_minor, unit_price_minor, currency, started_on",
        tenant_id,
        [subscription_id for _, subscription_id, *_ in new],
        [account["account_id"] for _, _, account, _, _ in new],
        [plan["plan_id"] for _, _, _, plan, _ in new],
        [plan["price_minor"] if order.price_minor is None else order.price_minor for *_, plan, order in new],
        [plan["unit_price_minor"] for *_, plan, _ in new],
        [plan["currency"] for *_, plan, _ in new],
        [order.started_on or first_of_month for *_, order in new],
    )
    customers = {account["account_id"]: account["customer_id"] for _, _, account, _, _ in new}
    outgoing = [
        Outgoing(
            SubscriptionActivated(
                subscription_id=row["subscription_id"],
                tenant_id=tenant_id,
                account_id=row["account_id"],
                customer_id=customers[row["account_id"]],
                plan_id=row["plan_id"],
                started_on=row["started_on"],
                **prices(row),
            ),
            1,
            (causes or {}).get(customers[row["account_id"]]),
        )
        for row in rows
    ]
    await publish(tx, outgoing, source=service.source, clock=service.clock)
    active = await tx.fetch(
        "select subscription_id, account_id, plan_id from subscription"
        " where tenant_id = $1 and account_id = any($2::uuid[]) and cancelled_on is null",
        tenant_id,
        [account_id for account_id, _ in chosen],
    )
    found = {(row["account_id"], row["plan_id"]): row["subscription_id"] for row in active}
    ids = [found[pair] if pair else None for pair in pairs]
    return Subscribed(len(rows), len(orders) - len(rejected) - len(rows), rejected, ids)


async def _lock_accounts(tx: Transaction, tenant_id: UUID, orders: Sequence[Order]) -> dict[Any, Any]:
    rows = await tx.fetch(
        "select account_id, customer_id, external_reference, status from billing_account where tenant_id = $1"
        " and (customer_id = any($2::uuid[]) or external_reference = any($3::text[])) order by account_id for update",
        tenant_id,
        [order.customer_id for order in orders if order.customer_id],
        [order.customer_external_reference for order in orders if order.customer_external_reference],
    )
    by_id = {row["customer_id"]: row for row in rows}
    return {**{row["external_reference"]: row for row in rows if row["external_reference"]}, **by_id}


def _refusal(order: Order, account: Any, plan: Any) -> str | None:
    if account is None:
        return "there is no billing account for this customer"
    if account["status"] != "open":
        return "the billing account is closed"
    if plan is None:
        return f"there is no plan {order.plan_code!r}"
    if order.currency is not None and order.currency != plan["currency"]:
        return f"the price is in {order.currency}, the plan in {plan['currency']}"
    if order.started_on is not None and not _EARLIEST <= order.started_on <= _LATEST:
        return "it starts before 2000 or after 2100"
    return None
