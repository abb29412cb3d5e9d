"""What moves a deployment on: the request, and the answers of the services that take part."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from chassis.messaging.subscription import Handler, Permanent, Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.billing import BillingWorkspaceReady, BillingWorkspaceRemoved
from dotmac_contracts.customer import CustomerWorkspaceReady, CustomerWorkspaceRemoved
from dotmac_contracts.tenant import (
    AdministratorCreated,
    AdministratorRemoved,
    DeploymentRequested,
    TenantTransitionMade,
    TenantTransitionRefused,
    TenantTransitionReversed,
)
from services.provisioning.consumers import departures
from services.provisioning.consumers.departures import Move
from services.provisioning.domain.saga import Saga, Unknown
from services.provisioning.tables import lock_deployments
from services.provisioning.use_cases.advance import DEPLOYER, Unfolding, save


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
                found.move(move(found.saga, item.event, now), now, item.envelope)
        await save(tx, service, list(unfoldings.values()))

    async def requested(tx: Transaction, received: Sequence[Received[DeploymentRequested]]) -> None:
        await tx.execute(
            "insert into deployment (tenant_id, deployment_id, target, operation, status, request, steps, version)"
            " select t, d, g, o, 'queued', r::jsonb, '[]', 0 from unnest($1::uuid[], $2::uuid[], $3::text[],"
            " $4::text[], $5::text[]) as x (t, d, g, o, r) on conflict do nothing",
            [item.event.tenant_id for item in received],
            [item.event.deployment_id for item in received],
            [item.event.dedicated_target or item.event.target for item in received],
            [item.event.operation for item in received],
            [item.event.model_dump_json() for item in received],
        )
        await advance(tx, received, ordered)
        tx.after_commit(partial(service.wake, DEPLOYER))

    def ordered(saga: Saga, event: DeploymentRequested, now: datetime) -> Saga:
        if saga.steps:
            return saga  # it is known already
        try:
            grace = timedelta(seconds=event.grace_seconds)
            return Saga.order(saga.target, saga.operation, now, grace, saga.moved_from)
        except Unknown as error:
            raise Permanent(str(error)) from error

    def done(step: str, who: str) -> Handler:
        async def handler(tx: Transaction, received: Sequence[Received[Any]]) -> None:
            await advance(tx, received, lambda saga, _event, now: saga.done(step, who, now))

        return handler

    def undone(step: str, who: str) -> Handler:
        async def handler(tx: Transaction, received: Sequence[Received[Any]]) -> None:
            await advance(tx, received, lambda saga, _event, now: saga.undone(step, who, now))

        return handler

    async def made(tx: Transaction, received: Sequence[Received[TenantTransitionMade]]) -> None:
        await advance(tx, received, lambda saga, event, now: saga.done(event.step, "tenant", now))

    async def reversed_(tx: Transaction, received: Sequence[Received[TenantTransitionReversed]]) -> None:
        await advance(tx, received, lambda saga, event, now: saga.undone(event.step, "tenant", now))

    async def refused(tx: Transaction, received: Sequence[Received[TenantTransitionRefused]]) -> None:
        await advance(tx, received, lambda saga, event, now: saga.failed(event.step, event.reason, now))

    return Subscription(
        "provisioning",
        [
            topics.TENANT_DEPLOYMENT,
            topics.TENANT_USER,
            topics.CUSTOMER_WORKSPACE,
            topics.BILLING_WORKSPACE,
            *departures.TOPICS,
        ],
        {
            DeploymentRequested: requested,
            CustomerWorkspaceReady: done("prepare_workspaces", "customer"),
            BillingWorkspaceReady: done("prepare_workspaces", "billing"),
            AdministratorCreated: done("create_administrator", "tenant"),
            CustomerWorkspaceRemoved: undone("prepare_workspaces", "customer"),
            BillingWorkspaceRemoved: undone("prepare_workspaces", "billing"),
            AdministratorRemoved: undone("create_administrator", "tenant"),
            TenantTransitionMade: made,
            TenantTransitionReversed: reversed_,
            TenantTransitionRefused: refused,
            **departures.handlers(advance),
        },
    )
