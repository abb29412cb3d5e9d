"""What moves a deployment on: the request, and the answers of the services that take part."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from chassis.messaging.subscription import Handler, Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.billing import BillingWorkspaceReady, BillingWorkspaceRemoved
from dotmac_contracts.customer import CustomerWorkspaceReady, CustomerWorkspaceRemoved
from dotmac_contracts.tenant import AdministratorCreated, AdministratorRemoved, DeploymentRequested
from services.provisioning.domain.saga import Saga
from services.provisioning.tables import lock_deployments
from services.provisioning.use_cases.advance import Unfolding, save

Move = Callable[[Saga, datetime], Saga]


def subscription(service: Service) -> Subscription:
    """Return what provisioning does with the events of the others."""

    async def advance(tx: Transaction, received: Sequence[Received[Any]], move: Move) -> None:
        tenants = {item.event.tenant_id for item in received}
        rows = await lock_deployments(tx, tenants, {item.event.deployment_id for item in received})
        unfoldings = {row["deployment_id"]: Unfolding(row) for row in rows}
        now = service.clock.now()
        for item in received:
            found = unfoldings.get(item.event.deployment_id)
            if found is not None:
                found.move(move(found.saga, now), now, item.envelope)
        await save(tx, service, list(unfoldings.values()))

    async def requested(tx: Transaction, received: Sequence[Received[DeploymentRequested]]) -> None:
        await tx.execute(
            "insert into deployment (tenant_id, deployment_id, target, status, request, steps, version)"
            " select t, d, g, 'running', r::jsonb, '[]', 0"
            " from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[]) as x (t, d, g, r) on conflict do nothing",
            [item.event.tenant_id for item in received],
            [item.event.deployment_id for item in received],
            [item.event.target for item in received],
            [item.event.model_dump_json() for item in received],
        )
        # A deployment that is under way already is not begun again.
        await advance(tx, received, lambda saga, now: saga if saga.steps else Saga.begin(saga.target, now))

    def done(step: str, who: str) -> Handler:
        async def handler(tx: Transaction, received: Sequence[Received[Any]]) -> None:
            await advance(tx, received, lambda saga, now: saga.done(step, who, now))

        return handler

    def undone(step: str, who: str) -> Handler:
        async def handler(tx: Transaction, received: Sequence[Received[Any]]) -> None:
            await advance(tx, received, lambda saga, now: saga.undone(step, who, now))

        return handler

    return Subscription(
        "provisioning",
        [topics.TENANT_DEPLOYMENT, topics.TENANT_USER, topics.CUSTOMER_WORKSPACE, topics.BILLING_WORKSPACE],
        {
            DeploymentRequested: requested,
            CustomerWorkspaceReady: done("prepare_workspaces", "customer"),
            BillingWorkspaceReady: done("prepare_workspaces", "billing"),
            AdministratorCreated: done("create_administrator", "tenant"),
            CustomerWorkspaceRemoved: undone("prepare_workspaces", "customer"),
            BillingWorkspaceRemoved: undone("prepare_workspaces", "billing"),
            AdministratorRemoved: undone("create_administrator", "tenant"),
        },
    )
