"""Prepares and removes tenants' workspaces when a deployment asks for it."""

from collections.abc import Sequence
from typing import Any

from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.customer import CustomerWorkspaceReady, CustomerWorkspaceRemoved
from dotmac_contracts.provisioning import WorkspaceRemovalRequested, WorkspaceRequested


def subscription(service: Service) -> Subscription:
    """Return what the customer service does with provisioning's events."""

    async def prepare(tx: Transaction, received: Sequence[Received[WorkspaceRequested]]) -> None:
        events = [item.event for item in received]
        rows = await tx.fetch(
            "insert into workspace as w (tenant_id, deployment_id, name, country, time_zone, version)"
            " select *, 1 from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])"
            # One that is there stays with the deployment that prepared it.
            " on conflict (tenant_id) do update set version = w.version + 1, removed_at = null,"
            " deployment_id = case when w.removed_at is null then w.deployment_id else excluded.deployment_id end"
            " returning tenant_id, version",
            [event.tenant_id for event in events],
            [event.deployment_id for event in events],
            [event.name for event in events],
            [event.country for event in events],
            [event.time_zone for event in events],
        )
        await answer(tx, CustomerWorkspaceReady, rows, received)

    async def remove(tx: Transaction, received: Sequence[Received[WorkspaceRemovalRequested]]) -> None:
        rows = await tx.fetch(
            "update workspace w set version = version + 1,"
            " removed_at = case when w.deployment_id = x.d then now() else removed_at end"
            " from unnest($1::uuid[], $2::uuid[]) as x (t, d) where w.tenant_id = x.t returning w.tenant_id, w.version",
            [item.event.tenant_id for item in received],
            [item.event.deployment_id for item in received],
        )
        await answer(tx, CustomerWorkspaceRemoved, rows, received)

    async def answer(
        tx: Transaction,
        kind: type[CustomerWorkspaceReady | CustomerWorkspaceRemoved],
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
        "customer",
        [topics.PROVISIONING_DEPLOYMENT],
        {WorkspaceRequested: prepare, WorkspaceRemovalRequested: remove},
    )
