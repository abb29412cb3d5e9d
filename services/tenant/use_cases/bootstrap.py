"""Create the platform's first administrator."""

import asyncio

from chassis.ids import PLATFORM_TENANT, new_id
from chassis.service import Service
from services.tenant.passwords import hash_password, verify_password


async def bootstrap(service: Service) -> None:
    """Create it from the settings, or give it the password that they name now; a second time changes nothing."""
    email, secret = service.settings.bootstrap_admin_email, service.settings.bootstrap_admin_password
    if email is None or secret is None:
        return
    password = secret.get_secret_value()
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        known = await tx.fetchval(
            "select password_hash from app_user where tenant_id = $1 and email_lc = lower($2)", PLATFORM_TENANT, email
        )
        if known and await asyncio.to_thread(verify_password, known, password):
            return
        await tx.execute(
            "insert into app_user (tenant_id, user_id, email, password_hash, roles)"
            " values ($1, $2, $3, $4, '{platform_admin}')"
            " on conflict (tenant_id, email_lc) do update set password_hash = excluded.password_hash",
            PLATFORM_TENANT,
            new_id(),
            email,
            await asyncio.to_thread(hash_password, password),
        )
