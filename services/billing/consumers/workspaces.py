"""Prepares and removes tenants' workspaces when a deployment asks for it."""

from collections.abc import Iterable, Sequence
from typing import Any

from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.billing import BillingWorkspaceReady, BillingWorkspaceRemoved, PlanPublished
from dotmac_contracts.money import Money
from dotmac_contracts.provisioning import WorkspaceRemovalRequested, WorkspaceRequested
from dotmac_contracts.workspace import WorkspaceParameters
from services.billing.domain.period import INVOICE_PREFIX
from services.billing.use_cases.keep_settings import expect_settings

STARTER_PLANS = (("PHONE", "Phone", 2000), ("DSL", "DSL", 4000), ("FIBER", "Fiber", 8000))
"""Code, name, and price a month in minor units: something to begin with, for the ISP to change."""
_AS_USUAL = WorkspaceParameters()


def subscription(service: Service) -> Subscription:
    """Return what billing does with provisioning's events."""

    async def prepare(tx: Transaction, received: Sequence[Received[WorkspaceRequested]]) -> None:
        asked = {item.event.tenant_id: item.event.parameters or _AS_USUAL for item in received}
        rows = await tx.fetch(
            "insert into workspace as w (tenant_id, deployment_id, currency, time_zone, invoice_prefix, version)"
            " select *, 1 from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])"
            # One that is there stays with the deployment that prepared it.
            " on conflict (tenant_id) do update set version = w.version + 1, removed_at = null,"
            " deployment_id = case when w.removed_at is null then w.deployment_id else excluded.deployment_id end,"
            # Invoices that were issued go on in the one order that their numbers have.
            " invoice_prefix = case when w.last_invoice_number = 0 then excluded.invoice_prefix"
            " else w.invoice_prefix end"
            " returning tenant_id, currency, version",
            [item.event.tenant_id for item in received],
            [item.event.deployment_id for item in received],
            [item.event.currency for item in received],
            [item.event.time_zone for item in received],
            [asked[item.event.tenant_id].invoice_prefix or INVOICE_PREFIX for item in received],
        )
        terms = {tenant_id: each.payment_terms_days for tenant_id, each in asked.items()}
        told_of = {tenant_id: days for tenant_id, days in terms.items() if days is not None}
        await expect_settings(tx, told_of)
        plans = [
            (row["tenant_id"], new_id(), *plan, row["currency"])
            for row in rows
            for plan in _starter_plans(asked[row["tenant_id"]])
        ]
        published = await tx.fetch(
            "insert into plan (tenant_id, plan_id, code, name, price_minor, currency, version) select *, 1"
            " from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[])"
            " on conflict do nothing returning tenant_id, plan_id, code, name, price_minor, currency",
            *([list(column) for column in zip(*plans, strict=True)] or [[]] * 6),
        )
        causes = {item.event.tenant_id: item.envelope for item in received}
        told = [
            Outgoing(
                PlanPublished(
                    plan_id=row["plan_id"],
                    tenant_id=row["tenant_id"],
                    code=row["code"],
                    name=row["name"],
                    price=Money(amount_minor=row["price_minor"], currency=row["currency"]),
                ),
                1,
                causes[row["tenant_id"]],
            )
            for row in published
        ]
        await publish(tx, told, source=service.source, clock=service.clock)
        await answer(tx, BillingWorkspaceReady, rows, received)

    async def remove(tx: Transaction, received: Sequence[Received[WorkspaceRemovalRequested]]) -> None:
        rows = await tx.fetch(
            "update workspace w set version = version + 1,"
            " removed_at = case when w.deployment_id = x.d then now() else removed_at end"
            " from unnest($1::uuid[], $2::uuid[]) as x (t, d) where w.tenant_id = x.t"
            " returning w.tenant_id, w.version, w.removed_at",
            [item.event.tenant_id for item in received],
            [item.event.deployment_id for item in received],
        )
        gone = [row["tenant_id"] for row in rows if row["removed_at"] is not None]
        await tx.execute("delete from plan where tenant_id = any($1::uuid[])", gone)
        await answer(tx, BillingWorkspaceRemoved, rows, received)

    async def answer(
        tx: Transaction,
        kind: type[BillingWorkspaceReady | BillingWorkspaceRemoved],
        rows: Sequence[Any],
        received: Sequence[Received[WorkspaceRequested | WorkspaceRemovalRequested]],
    ) -> None:
        versions = {row["tenant_id"]: row["version"] for row in rows}
        answers = [
            Outgoing(
                kind(tenant_id=item.event.tenant_id, deployment_id=item.event.deployment_id),
                versions[item.event.tenant_id],
                item.envelope,
            )
            for item in received
        ]
        await publish(tx, answers, source=service.source, clock=service.clock)

    return Subscription(
        "billing-workspaces",
        [topics.PROVISIONING_DEPLOYMENT],
        {WorkspaceRequested: prepare, WorkspaceRemovalRequested: remove},
    )


def _starter_plans(asked: WorkspaceParameters) -> Iterable[tuple[str, str, int]]:
    """Return code, name and price of the plans that are asked for, or of the usual ones."""
    if asked.starter_plans is None:
        return STARTER_PLANS
    return [(plan.code, plan.name, plan.price.amount_minor) for plan in asked.starter_plans]
