"""Prepares and removes tenants' workspaces when a deployment asks for it."""

from collections.abc import Sequence

from chassis.ids import new_id
from chassis.messaging.consumer import Received, Subscription
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.billing import BillingWorkspaceReady, BillingWorkspaceRemoved, PlanPublished
from dotmac_contracts.money import Money
from dotmac_contracts.provisioning import WorkspaceRemovalRequested, WorkspaceRequested

STARTER_PLANS = (("PHONE", "Phone", 2000), ("DSL", "DSL", 4000), ("FIBER", "Fiber", 8000))
"""Code, name, and price a month in minor units: something to begin with, for the ISP to change."""


def subscription(service: Service) -> Subscription:
    """Return what billing does with provisioning's events."""

    async def prepare(tx: Transaction, received: Sequence[Received[WorkspaceRequested]]) -> None:
        events = {item.event.tenant_id: item for item in received}
        fresh = await tx.fetch(
            "insert into workspace (tenant_id, deployment_id, currency, time_zone)"
            " select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[])"
            " on conflict do nothing returning tenant_id, currency",
            list(events),
            [item.event.deployment_id for item in events.values()],
            [item.event.currency for item in events.values()],
            [item.event.time_zone for item in events.values()],
        )
        plans = [(row["tenant_id"], new_id(), *plan, row["currency"]) for row in fresh for plan in STARTER_PLANS]
        if plans:
            await tx.execute(
                "insert into plan (tenant_id, plan_id, code, name, price_minor, currency, version) select *, 1"
                " from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::text[])",
                *(list(column) for column in zip(*plans, strict=True)),
            )
        told = [
            Outgoing(
                PlanPublished(
                    plan_id=plan_id,
                    tenant_id=tenant_id,
                    code=code,
                    name=name,
                    price=Money(amount_minor=price, currency=currency),
                ),
                1,
                events[tenant_id].envelope,
            )
            for tenant_id, plan_id, code, name, price, currency in plans
        ]
        told += [
            Outgoing(
                BillingWorkspaceReady(tenant_id=item.event.tenant_id, deployment_id=item.event.deployment_id),
                1,
                item.envelope,
            )
            for item in received
        ]
        await publish(tx, told, source=service.source, clock=service.clock)

    async def remove(tx: Transaction, received: Sequence[Received[WorkspaceRemovalRequested]]) -> None:
        rows = await tx.fetch(
            "delete from workspace w using unnest($1::uuid[], $2::uuid[]) as x (t, d)"
            " where w.tenant_id = x.t and w.deployment_id = x.d returning w.tenant_id",
            [item.event.tenant_id for item in received],
            [item.event.deployment_id for item in received],
        )
        await tx.execute("delete from plan where tenant_id = any($1::uuid[])", [row["tenant_id"] for row in rows])
        removed = [
            Outgoing(
                BillingWorkspaceRemoved(tenant_id=item.event.tenant_id, deployment_id=item.event.deployment_id),
                2,
                item.envelope,
            )
            for item in received
        ]
        await publish(tx, removed, source=service.source, clock=service.clock)

    return Subscription(
        "billing-workspaces",
        [topics.PROVISIONING_DEPLOYMENT],
        {WorkspaceRequested: prepare, WorkspaceRemovalRequested: remove},
    )
