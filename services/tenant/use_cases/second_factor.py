"""The second factor of a sign-in: begun, confirmed, asked for, and taken away again."""

import base64
import secrets
from datetime import datetime
from typing import Any
from uuid import UUID

from chassis.http.authority import not_more_than_own
from chassis.http.problem import Conflict, NotFound, Problem
from chassis.ids import PLATFORM_TENANT
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.envelope import Event
from dotmac_contracts.tenant import RecoveryCodesRenewed, RecoveryCodeUsed, SecondFactorDisabled, SecondFactorEnabled
from services.tenant.digests import digest
from services.tenant.domain.totp import SECRET_BYTES, accepted_step
from services.tenant.tables import lock_user, next_version
from services.tenant.use_cases.authorize import scopes_in
from services.tenant.use_cases.prove_password import not_a_user

RECOVERY_CODES = 10
_CODE_BYTES = 10
_WRONG = "The code is wrong, was used, or its time is over."


async def begin(tx: Transaction, service: Service, user: Any) -> bytes:
    """Return the secret of a factor that holds once it is confirmed; Problem 409 if there is one that holds."""
    secret = secrets.token_bytes(SECRET_BYTES)
    begun = await tx.fetchval(
        "insert into second_factor as old (tenant_id, user_id, sealed_secret, last_step) values ($1, $2, $3, -1)"
        " on conflict (tenant_id, user_id) do update set sealed_secret = excluded.sealed_secret, last_step = -1"
        " where old.confirmed_at is null returning true",
        *_ids(user).values(),
        service.vault.seal(secret),
    )
    if not begun:
        raise Conflict("second-factor-exists", "There is a second factor already: remove it first.")
    return secret


async def confirm(tx: Transaction, service: Service, who: Principal, code: str) -> list[str]:
    """Have the factor hold from now on, and return the recovery codes, which are told this once."""
    user = await _own(tx, who)
    factor = await _factor(tx, user)
    if factor is None or factor["confirmed_at"] is not None:
        raise Conflict("no-second-factor-begun", "Begin a second factor first.")
    now = service.clock.now()
    if not await _is_of_the_app(tx, service, factor, code, now):
        raise Problem(403, "wrong-code", _WRONG)
    await tx.execute(
        "update second_factor set confirmed_at = $3 where tenant_id = $1 and user_id = $2", *_ids(user).values(), now
    )
    codes = await _new_codes(tx, user)
    await _tell(tx, service, user, SecondFactorEnabled(**_ids(user)))
    return codes


async def renew_recovery_codes(tx: Transaction, service: Service, user: Any, code: str) -> list[str]:
    """Return new recovery codes, which are told this once, by a code of the app; those before are void.

    Problem 409 if there is no factor, 403 for a wrong code. A recovery code renews none: whoever found one would have
    ten.
    """
    factor = await _factor(tx, user)
    if factor is None or factor["confirmed_at"] is None:
        raise Conflict("no-second-factor", "There is no second factor.")
    if not await _is_of_the_app(tx, service, factor, code, service.clock.now()):
        raise Problem(403, "wrong-code", _WRONG)
    await tx.execute("delete from recovery_code where tenant_id = $1 and user_id = $2", *_ids(user).values())
    codes = await _new_codes(tx, user)
    await _tell(tx, service, user, RecoveryCodesRenewed(**_ids(user)))
    return codes


async def check(tx: Transaction, service: Service, user: Any, code: str | None) -> None:
    """Ask a user who is locked, and has a factor, for a code; Problem 401 without a good one."""
    factor = await _factor(tx, user)
    if factor is None or factor["confirmed_at"] is None:
        return
    if code is None:
        raise Problem(401, "second-factor-required", "Send the code of the authenticator app, or a recovery code.")
    if not await _takes(tx, service, user, factor, code):
        raise Problem(401, "wrong-code", _WRONG)


async def remove(tx: Transaction, service: Service, who: Principal, user: Any, code: str) -> None:
    """Take away one's own factor, by a code of it; Problem 409 if there is none, 403 for a wrong code."""
    factor = await _factor(tx, user)
    if factor is None or factor["confirmed_at"] is None:
        raise Conflict("no-second-factor", "There is no second factor.")
    if not await _takes(tx, service, user, factor, code):
        raise Problem(403, "wrong-code", _WRONG)
    await _delete(tx, service, user, who)


async def remove_for(tx: Transaction, service: Service, who: Principal, user_id: UUID) -> None:
    """Take away the factor of a user who lost it: one of the caller's tenant, or of any for the platform.

    Nobody does so for one who may do more than himself.
    """
    tenant_id = await tx.fetchval(
        "select tenant_id from app_user where user_id = $1 and ($2::uuid = $3::uuid or tenant_id = $2)",
        user_id,
        who.tenant_id,
        PLATFORM_TENANT,
    )
    user = await lock_user(tx, tenant_id, user_id) if tenant_id else None
    if user is None:
        raise NotFound("user", user_id)
    if tenant_id == who.tenant_id:
        not_more_than_own(who, await scopes_in(tx, tenant_id, user["roles"]))
    if await _factor(tx, user) is None:
        raise NotFound("second factor of user", user_id)
    await _delete(tx, service, user, who)


async def state(tx: Transaction, who: Principal) -> tuple[bool, int]:
    """Return whether one has a factor that holds, and how many recovery codes are left."""
    user = await _own(tx, who)
    factor = await _factor(tx, user)
    return factor is not None and factor["confirmed_at"] is not None, await _left(tx, user)


async def _own(tx: Transaction, who: Principal) -> Any:
    if who.kind != "user":  # a key of a user's, who is not asked for the password here
        raise not_a_user()
    user = await tx.fetchrow(
        "select * from app_user where tenant_id = $1 and user_id::text = $2 for update", who.tenant_id, who.subject
    )
    if user is None:
        raise not_a_user()
    return user


async def _factor(tx: Transaction, user: Any) -> Any:
    return await tx.fetchrow("select * from second_factor where tenant_id = $1 and user_id = $2", *_ids(user).values())


async def _takes(tx: Transaction, service: Service, user: Any, factor: Any, code: str) -> bool:
    """Whether a code is good: of the app and later than the last one, or a recovery code that was not used."""
    if await _is_of_the_app(tx, service, factor, code, service.clock.now()):
        return True
    used = await tx.fetchval(
        "delete from recovery_code where tenant_id = $1 and user_id = $2 and code_hash = $3 returning true",
        *_ids(user).values(),
        digest(_normal(code)),
    )
    if used:
        await _tell(tx, service, user, RecoveryCodeUsed(**_ids(user), left=await _left(tx, user)))
    return bool(used)


async def _is_of_the_app(tx: Transaction, service: Service, factor: Any, code: str, now: datetime) -> bool:
    secret = service.vault.open(factor["sealed_secret"])
    step = accepted_step(secret, _normal(code), now, factor["last_step"])
    if step is None:
        return False
    # Sealed anew each time, so that SECRET_KEY can be changed.
    await tx.execute(
        "update second_factor set last_step = $3, sealed_secret = $4 where tenant_id = $1 and user_id = $2",
        factor["tenant_id"],
        factor["user_id"],
        step,
        service.vault.seal(secret),
    )
    return True


async def _delete(tx: Transaction, service: Service, user: Any, who: Principal) -> None:
    await tx.execute("delete from second_factor where tenant_id = $1 and user_id = $2", *_ids(user).values())
    await _tell(tx, service, user, SecondFactorDisabled(**_ids(user), disabled_by=who.subject))


async def _left(tx: Transaction, user: Any) -> int:
    left: int = await tx.fetchval(
        "select count(*) from recovery_code where tenant_id = $1 and user_id = $2", *_ids(user).values()
    )
    return left


async def _new_codes(tx: Transaction, user: Any) -> list[str]:
    codes = [_new_code() for _ in range(RECOVERY_CODES)]
    await tx.execute(
        "insert into recovery_code (tenant_id, user_id, code_hash) select $1, $2, unnest($3::bytea[])",
        *_ids(user).values(),
        [digest(_normal(code)) for code in codes],
    )
    return codes


def _new_code() -> str:
    """Return 80 bits as people copy them: four groups of four."""
    text = base64.b32encode(secrets.token_bytes(_CODE_BYTES)).decode()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def _normal(code: str) -> str:
    """Return a code without what people put between its characters."""
    return code.replace("-", "").replace(" ", "").upper()


def _ids(user: Any) -> dict[str, UUID]:
    return {"tenant_id": user["tenant_id"], "user_id": user["user_id"]}


async def _tell(tx: Transaction, service: Service, user: Any, event: Event) -> None:
    told = [Outgoing(event, await next_version(tx, user))]
    await publish(tx, told, source=service.source, clock=service.clock)
