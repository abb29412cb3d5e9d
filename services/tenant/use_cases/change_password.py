"""Change one's own password."""

import asyncio
from typing import Any
from uuid import UUID

from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.tenant import PasswordChanged
from services.tenant.passwords import hash_password
from services.tenant.tables import next_version
from services.tenant.use_cases.end_sessions import end_sessions
from services.tenant.use_cases.prove_password import PasswordProof


async def new_hash_for(proof: PasswordProof, password: str) -> str:
    """Hash the new password, unless the present one is wrong, which `change_password` will say."""
    return await asyncio.to_thread(hash_password, password) if proof.fits else ""


async def change_password(
    tx: Transaction, service: Service, who: Principal, proof: PasswordProof, password_hash: str
) -> None:
    """Give the user another password and end the user's other sessions; Problem 403 when the present one is wrong."""
    user = await proof.user(tx)
    await set_password(tx, service, user, password_hash, reset=False)
    own = UUID(who.session_id) if who.session_id else None
    await end_sessions(tx, service, user, "password-changed", but=own)


async def set_password(tx: Transaction, service: Service, user: Any, password_hash: str, *, reset: bool) -> None:
    """Give a user who is locked another password; resets that were made for the one before end."""
    ids = {"tenant_id": user["tenant_id"], "user_id": user["user_id"]}
    await tx.execute(
        "update app_user set password_hash = $3, reset_requested_at = null where tenant_id = $1 and user_id = $2",
        *ids.values(),
        password_hash,
    )
    await tx.execute("delete from password_reset where tenant_id = $1 and user_id = $2", *ids.values())
    told = [Outgoing(PasswordChanged(**ids, reset=reset), await next_version(tx, user))]
    await publish(tx, told, source=service.source, clock=service.clock)
