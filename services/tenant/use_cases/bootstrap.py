"""Create the platform's first administrator."""

import asyncio
from typing import Any

from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.scopes import PLATFORM_ADMINISTRATOR
from chassis.service import Service
from dotmac_contracts.tenant import UserCreated, UserUpdated
from services.tenant.passwords import hash_password, verify_password
from services.tenant.use_cases.change_password import set_password
from services.tenant.use_cases.revoke_tokens import end_all


async def bootstrap(service: Service) -> None:
    """Create it from the settings, or give it the password that they name now; a second time changes nothing.

    A password that was chosen since stays, until the settings name another than they did before. That is a reset, which
    ends all sessions and tokens.
    """
    email, secret = service.settings.bootstrap_admin_email, service.settings.bootstrap_admin_password
    if email is None or secret is None:
        return
    password = secret.get_secret_value()
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        user = await tx.fetchrow(
            "select *, coalesce(bootstrap_hash, password_hash) as given from app_user"
            " where tenant_id = $1 and email_lc = lower($2) for update",
            PLATFORM_TENANT,
            email,
        )
        if user is None:
            await _create(tx, service, email, await asyncio.to_thread(hash_password, password))
            return
        if user["version"] == 0:  # by a version that told nobody of it
            await tx.execute(
                "update app_user set version = 1 where tenant_id = $1 and user_id = $2",
                PLATFORM_TENANT,
                user["user_id"],
            )
            event = UserCreated(**{name: user[name] for name in ("tenant_id", "user_id", "email", "roles")})
            await publish(tx, [Outgoing(event, 1)], source=service.source, clock=service.clock)
        if not await tx.fetchval(
            "select 1 from app_user where tenant_id = $1 and $2 = any(roles)", PLATFORM_TENANT, PLATFORM_ADMINISTRATOR
        ):
            await _promote(tx, service, user)
        given = user["given"]
        if not await asyncio.to_thread(verify_password, given, password):
            given = await asyncio.to_thread(hash_password, password)
            await set_password(tx, service, user, given, reset=True)
            await end_all(tx, service, user)
        await tx.execute(
            "update app_user set bootstrap_hash = $3 where tenant_id = $1 and user_id = $2"
            " and bootstrap_hash is distinct from $3",
            PLATFORM_TENANT,
            user["user_id"],
            given,
        )


async def _create(tx: Transaction, service: Service, email: str, password_hash: str) -> None:
    user_id = await tx.fetchval(
        "insert into app_user (tenant_id, user_id, email, password_hash, bootstrap_hash, roles, version)"
        " values ($1, $2, $3, $4, $4, $5, 1) on conflict do nothing returning user_id",
        PLATFORM_TENANT,
        new_id(),
        email,
        password_hash,
        [PLATFORM_ADMINISTRATOR],
    )
    if user_id is None:  # another instance has just done so
        return
    event = UserCreated(user_id=user_id, tenant_id=PLATFORM_TENANT, email=email, roles=[PLATFORM_ADMINISTRATOR])
    await publish(tx, [Outgoing(event, 1)], source=service.source, clock=service.clock)


async def _promote(tx: Transaction, service: Service, user: Any) -> None:
    """Make it the one who administers the rest, where there is nobody: versions before had no such role."""
    row = await tx.fetchrow(
        "update app_user set roles = array_append(roles, $3), version = version + 1"
        " where tenant_id = $1 and user_id = $2 returning roles, version, disabled_at",
        user["tenant_id"],
        user["user_id"],
        PLATFORM_ADMINISTRATOR,
    )
    assert row is not None
    event = UserUpdated(
        user_id=user["user_id"],
        tenant_id=user["tenant_id"],
        roles=row["roles"],
        disabled=row["disabled_at"] is not None,
        changed_by="settings",
    )
    await publish(tx, [Outgoing(event, row["version"])], source=service.source, clock=service.clock)
