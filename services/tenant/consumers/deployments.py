"""What deployments mean for a tenant and its first administrator."""

from collections.abc import Sequence

from chassis.ids import new_id
from chassis.messaging.consumer import Received, Subscription
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.provisioning import (
    AdministratorRemovalRequested,
    AdministratorRequested,
    DeploymentFailed,
    DeploymentSucceeded,
)
from dotmac_contracts.tenant import AdministratorCreated, TenantActivated
from services.tenant.tables import lock_tenant, save_tenant


def subscription(service: Service) -> Subscription:
    """Return what the tenant service does with provisioning's events."""

    async def administrators_requested(tx: Transaction, received: Sequence[Received[AdministratorRequested]]) -> None:
        rows = await tx.fetch(
            "insert into app_user (tenant_id, user_id, email, roles, deployment_id)"
            " select t, u, e, '{tenant_admin}', d"
            " from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[]) as x (t, u, e, d)"
            # Asked again by a second deployment, the user that exists is the administrator.
            " on conflict (tenant_id, email_lc) do update set email = excluded.email"
            " returning tenant_id, user_id",
            [item.event.tenant_id for item in received],
            [new_id() for _ in received],
            [item.event.email for item in received],
            [item.event.deployment_id for item in received],
        )
        users = {row["tenant_id"]: row["user_id"] for row in rows}
        answers = [
            Outgoing(
                AdministratorCreated(
                    user_id=users[item.event.tenant_id],
                    tenant_id=item.event.tenant_id,
                    deployment_id=item.event.deployment_id,
                    email=item.event.email,
                ),
                1,
                item.envelope,
            )
            for item in received
        ]
        await publish(tx, answers, source=service.source, clock=service.clock)

    async def administrators_removed(
        tx: Transaction, received: Sequence[Received[AdministratorRemovalRequested]]
    ) -> None:
        await tx.execute(
            "delete from app_user u using unnest($1::uuid[], $2::uuid[]) as x (t, d)"
            " where u.tenant_id = x.t and u.deployment_id = x.d and u.password_hash is null",
            [item.event.tenant_id for item in received],
            [item.event.deployment_id for item in received],
        )

    async def ended(tx: Transaction, received: Sequence[Received[DeploymentSucceeded | DeploymentFailed]]) -> None:
        for item in received:
            tenant = await lock_tenant(tx, item.event.tenant_id)
            if tenant is None:
                continue
            succeeded = isinstance(item.event, DeploymentSucceeded)
            changed = tenant.deployment_ended(item.event.deployment_id, succeeded=succeeded)
            if changed is tenant:
                continue
            await save_tenant(tx, changed)
            if succeeded:
                event = TenantActivated(tenant_id=tenant.id, deployment_id=item.event.deployment_id)
                told = [Outgoing(event, changed.version, item.envelope)]
                await publish(tx, told, source=service.source, clock=service.clock)

    return Subscription(
        "tenant",
        [topics.PROVISIONING_DEPLOYMENT],
        {
            AdministratorRequested: administrators_requested,
            AdministratorRemovalRequested: administrators_removed,
            DeploymentSucceeded: ended,
            DeploymentFailed: ended,
        },
    )
