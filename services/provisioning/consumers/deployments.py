"""What moves a deployment on: the request, and the answers of the services that take part."""

from collections.abc import Sequence
from typing import Any

from chassis.messaging.consumer import Handler, Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.billing import BillingWorkspaceReady
from dotmac_contracts.customer import CustomerWorkspaceReady
from dotmac_contracts.tenant import AdministratorCreated, DeploymentRequested
from services.provisioning.domain.saga import Saga
from services.provisioning.tables import lock_deployment, saga_of, stored_steps
from services.provisioning.use_cases.advance import advance


def subscription(service: Service) -> Subscription:
    """Return what provisioning does with the events of the others."""

    async def requested(tx: Transaction, received: Sequence[Received[DeploymentRequested]]) -> None:
        for item in received:
            event, saga = item.event, Saga.begin(item.event.target, service.clock.now())
            await tx.execute(
                "insert into deployment (tenant_id, deployment_id, target, status, request, steps, version)"
                " values ($1, $2, $3, $4, $5, $6, 0) on conflict do nothing",
                event.tenant_id,
                event.deployment_id,
                event.target,
                saga.status,
                event.model_dump(mode="json"),
                stored_steps(saga),
            )
            row = await lock_deployment(tx, event.tenant_id, event.deployment_id)
            await advance(tx, service, row, saga, item.envelope)

    def answers(step: str, who: str) -> Handler:
        async def answered(tx: Transaction, received: Sequence[Received[Any]]) -> None:
            for item in received:
                row = await lock_deployment(tx, item.event.tenant_id, item.event.deployment_id)
                if row is None:
                    continue
                saga = saga_of(row).answered(step, who, service.clock.now())
                await advance(tx, service, row, saga, item.envelope)

        return answered

    return Subscription(
        "provisioning",
        [topics.TENANT_DEPLOYMENT, topics.TENANT_USER, topics.CUSTOMER_WORKSPACE, topics.BILLING_WORKSPACE],
        {
            DeploymentRequested: requested,
            CustomerWorkspaceReady: answers("prepare_workspaces", "customer"),
            BillingWorkspaceReady: answers("prepare_workspaces", "billing"),
            AdministratorCreated: answers("create_administrator", "tenant"),
        },
    )
