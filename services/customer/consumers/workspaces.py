"""Prepares and removes tenants' workspaces when a deployment asks for it."""

from collections.abc import Sequence

from chassis.messaging.consumer import Received, Subscription
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.customer import CustomerWorkspaceReady, CustomerWorkspaceRemoved
from dotmac_contracts.provisioning import WorkspaceRemovalRequested, WorkspaceRequested


def subscription(service: Service) -> Subscription:
    """Return what the customer service does with provisioning's events."""

    async def prepare(tx: Transaction, received: Sequence[Received[WorkspaceRequested]]) -> None:
        events = [item.event for item in received]
        await tx.execute(
            "insert into workspace (tenant_id, deployment_id, name, country, time_zone)"
            " select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[]) on conflict do nothing",
            [event.tenant_id for event in events],
            [event.deployment_id for event in events],
            [event.name for event in events],
            [event.country for event in events],
            [event.time_zone for event in events],
        )
        ready = [
            Outgoing(
                CustomerWorkspaceReady(tenant_id=item.event.tenant_id, deployment_id=item.event.deployment_id),
                1,
                item.envelope,
            )
            for item in received
        ]
        await publish(tx, ready, source=service.source, clock=service.clock)

    async def remove(tx: Transaction, received: Sequence[Received[WorkspaceRemovalRequested]]) -> None:
        await tx.execute(
            "delete from workspace w using unnest($1::uuid[], $2::uuid[]) as x (t, d)"
            " where w.tenant_id = x.t and w.deployment_id = x.d",
            [item.event.tenant_id for item in received],
            [item.event.deployment_id for item in received],
        )
        removed = [
            Outgoing(
                CustomerWorkspaceRemoved(tenant_id=item.event.tenant_id, deployment_id=item.event.deployment_id),
                2,
                item.envelope,
            )
            for item in received
        ]
        await publish(tx, removed, source=service.source, clock=service.clock)

    return Subscription(
        "customer",
        [topics.PROVISIONING_DEPLOYMENT],
        {WorkspaceRequested: prepare, WorkspaceRemovalRequested: remove},
    )
