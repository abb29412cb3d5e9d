"""What deployments mean for a tenant and its first administrator."""

from collections.abc import Sequence

from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.provisioning import (
    AdministratorRemovalRequested,
    AdministratorRequested,
    DeploymentFailed,
    DeploymentStarted,
    DeploymentSucceeded,
)
from dotmac_contracts.tenant import AdministratorCreated, AdministratorRemoved
from services.tenant.consumers import transitions
from services.tenant.tables import lock_tenant
from services.tenant.use_cases.transition import transition

# A tenant whose move failed is where the order before it left it.
_END = """
update deployment_order o set ended_at = case when o.operation = 'move' and $5 then null else $3::timestamptz end,
    target = case when o.operation = 'move' and $4 and not $5 then (select p.target from deployment_order p
        where p.tenant_id = $1 and p.deployment_id < $2 order by p.deployment_id desc limit 1) else o.target end
where o.tenant_id = $1 and o.deployment_id = $2
"""


def subscription(service: Service) -> Subscription:
    """Return what the tenant service does with provisioning's events."""

    async def administrators_requested(tx: Transaction, received: Sequence[Received[AdministratorRequested]]) -> None:
        rows = await tx.fetch(
            "insert into app_user as old (tenant_id, user_id, email, roles, deployment_id, version)"
            " select t, u, e, '{tenant_admin}', d, 1"
            " from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[]) as x (t, u, e, d)"
            # The user that exists is the administrator. One who was there before any deployment is none's to remove.
            " on conflict (tenant_id, email_lc) do update set email = excluded.email, version = old.version + 1,"
            " deployment_id = case when old.deployment_id is null then null else excluded.deployment_id end"
            " returning tenant_id, user_id, version",
            [item.event.tenant_id for item in received],
            [new_id() for _ in received],
            [item.event.email for item in received],
            [item.event.deployment_id for item in received],
        )
        users = {row["tenant_id"]: row for row in rows}
        answers = [
            Outgoing(
                AdministratorCreated(
                    user_id=users[item.event.tenant_id]["user_id"],
                    tenant_id=item.event.tenant_id,
                    deployment_id=item.event.deployment_id,
                    email=item.event.email,
                ),
                users[item.event.tenant_id]["version"],
                item.envelope,
            )
            for item in received
        ]
        await publish(tx, answers, source=service.source, clock=service.clock)

    async def administrators_removed(
        tx: Transaction, received: Sequence[Received[AdministratorRemovalRequested]]
    ) -> None:
        deployments = {item.event.deployment_id: item for item in received}
        keys = ([item.event.tenant_id for item in received], list(deployments))
        rows = await tx.fetch(
            "update app_user u set version = version + 1 from (select distinct on (x.t) x.t, x.d, a.user_id"
            " from unnest($1::uuid[], $2::uuid[]) as x (t, d) join app_user a on a.tenant_id = x.t and"
            " (a.deployment_id = x.d or a.deployment_id is null and 'tenant_admin' = any(a.roles))"
            " order by x.t, a.deployment_id nulls last, a.user_id) as found"
            " where u.tenant_id = found.t and u.user_id = found.user_id"
            " returning u.tenant_id, u.user_id, u.email, u.version, found.d as deployment_id",
            *keys,
        )
        await tx.execute(
            # One who has accepted the invitation of an earlier deployment stays.
            "delete from app_user u using unnest($1::uuid[], $2::uuid[]) as x (t, d)"
            " where u.tenant_id = x.t and u.deployment_id = x.d and u.password_hash is null",
            *keys,
        )
        answers = [
            Outgoing(
                AdministratorRemoved(
                    user_id=row["user_id"],
                    tenant_id=row["tenant_id"],
                    deployment_id=row["deployment_id"],
                    email=row["email"],
                ),
                row["version"],
                deployments[row["deployment_id"]].envelope,
            )
            for row in rows
        ]
        await publish(tx, answers, source=service.source, clock=service.clock)

    async def ended(tx: Transaction, received: Sequence[Received[DeploymentSucceeded | DeploymentFailed]]) -> None:
        for item in received:
            tenant = await lock_tenant(tx, item.event.tenant_id)
            if tenant is None:
                continue
            reason = item.event.reason if isinstance(item.event, DeploymentFailed) else None
            irrevocable = isinstance(item.event, DeploymentFailed) and item.event.irrevocable
            changed = tenant.deployment_ended(item.event.deployment_id, succeeded=reason is None)
            told = await transition(tx, service, tenant, changed, reason=reason, cause=item.envelope)
            # The next one can be ordered; not while a move has only half ended, which is to be tried again.
            await tx.execute(
                _END, tenant.id, item.event.deployment_id, service.clock.now(), reason is not None, irrevocable
            )
            await publish(tx, told, source=service.source, clock=service.clock)

    async def started(tx: Transaction, received: Sequence[Received[DeploymentStarted]]) -> None:
        for item in received:
            tenant = await lock_tenant(tx, item.event.tenant_id)
            reopened = await tx.fetchrow(
                # It had ended: it is tried again, unless another one was ordered meanwhile.
                "update deployment_order o set ended_at = null, target = $3 where tenant_id = $1 and deployment_id = $2"
                " and ended_at is not null and not exists"
                " (select 1 from deployment_order p where p.tenant_id = $1 and p.ended_at is null)"
                " returning operation, requested_by",
                item.event.tenant_id,
                item.event.deployment_id,
                item.event.dedicated_target or item.event.target,
            )
            if tenant is None or reopened is None:
                continue
            changed, by = tenant.deployment_retried(item.event.deployment_id), reopened["requested_by"]
            told = await transition(tx, service, tenant, changed, requested_by=by, cause=item.envelope)
            await publish(tx, told, source=service.source, clock=service.clock)

    return Subscription(
        "tenant",
        [topics.PROVISIONING_DEPLOYMENT],
        {
            AdministratorRequested: administrators_requested,
            AdministratorRemovalRequested: administrators_removed,
            DeploymentStarted: started,
            DeploymentSucceeded: ended,
            DeploymentFailed: ended,
            **transitions.handlers(service),
        },
    )
