"""Make, change and delete service accounts, which programs work as, and the secrets that they sign in with."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from starlette.requests import Request

from chassis.http.authority import not_more_than_own
from chassis.http.preconditions import require_match
from chassis.http.problem import Conflict, NotFound
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.envelope import Event
from dotmac_contracts.tenant import (
    ServiceAccountCreated,
    ServiceAccountCredentialAdded,
    ServiceAccountCredentialRemoved,
    ServiceAccountDeleted,
    ServiceAccountUpdated,
)
from services.tenant.digests import digest, new_token
from services.tenant.use_cases.authorize import not_by_a_key
from services.tenant.use_cases.end_sessions import tell_of_ended
from services.tenant.use_cases.revoke_tokens import revoke_access

MOST_ACCOUNTS = 100
MOST_CREDENTIALS = 2
"""The one that is used and the one that is to replace it."""


async def create_service_account(
    tx: Transaction, service: Service, who: Principal, name: str, description: str | None, scopes: Collection[str]
) -> tuple[Any, UUID, str]:
    """Return the account's row, its first credential, and the secret, which is told this once."""
    not_by_a_key(who)
    not_more_than_own(who, frozenset(scopes))
    if await tx.fetchval("select count(*) from service_account where tenant_id = $1", who.tenant_id) >= MOST_ACCOUNTS:
        raise Conflict("too-many-service-accounts", f"There can be {MOST_ACCOUNTS}: delete one first.")
    now = service.clock.now()
    row = await tx.fetchrow(
        "insert into service_account (tenant_id, service_account_id, name, description, scopes, version, created_at,"
        " updated_at) values ($1, $2, $3, $4, $5, 1, $6, $6) returning *",
        who.tenant_id,
        new_id(),
        name,
        description,
        sorted(set(scopes)),
        now,
    )
    assert row is not None
    await _tell(tx, service, ServiceAccountCreated(**_told(row), changed_by=who.subject), 1)
    credential_id, secret = await _insert(tx, service, row, None)
    return row, credential_id, secret


async def change_service_account(
    tx: Transaction,
    service: Service,
    request: Request,
    who: Principal,
    service_account_id: UUID,
    changes: dict[str, Any],
) -> Any:
    """Apply the changes to the version that the caller read, and return the account's row.

    With fewer scopes its access tokens end, as a role's do; with more, the next ones have them.
    """
    row = await _locked(tx, who, service_account_id)
    require_match(request, row["version"])
    not_more_than_own(who, frozenset(row["scopes"]))
    scopes = sorted(set(changes.get("scopes", row["scopes"])))
    not_more_than_own(who, frozenset(scopes))
    description = changes.get("description", row["description"])
    if (scopes, description) == (row["scopes"], row["description"]):
        return row
    lost = set(row["scopes"]) - set(scopes)
    row = await tx.fetchrow(
        "update service_account set scopes = $3, description = $4, version = version + 1, updated_at = $5"
        " where tenant_id = $1 and service_account_id = $2 returning *",
        who.tenant_id,
        service_account_id,
        scopes,
        description,
        service.clock.now(),
    )
    assert row is not None
    await _tell(tx, service, ServiceAccountUpdated(**_told(row), changed_by=who.subject), row["version"])
    if lost:
        await revoke_access(tx, service, {"tenant_id": who.tenant_id, "user_id": service_account_id})
    return row


async def add_credential(
    tx: Transaction, service: Service, who: Principal, service_account_id: UUID, lifetime: timedelta | None
) -> tuple[Any, UUID, str]:
    """Give an account another secret beside the one that it has; Problem 409 if it has two."""
    not_by_a_key(who)
    row = await _locked(tx, who, service_account_id)
    not_more_than_own(who, frozenset(row["scopes"]))
    # One whose time is over makes room.
    await tx.execute(
        "delete from service_account_credential where tenant_id = $1 and service_account_id = $2 and expires_at <= $3",
        who.tenant_id,
        service_account_id,
        service.clock.now(),
    )
    held = await tx.fetchval(
        "select count(*) from service_account_credential where tenant_id = $1 and service_account_id = $2",
        who.tenant_id,
        service_account_id,
    )
    if held >= MOST_CREDENTIALS:
        raise Conflict("too-many-credentials", f"An account can have {MOST_CREDENTIALS} secrets: remove one first.")
    row = await _changed(tx, service, row)
    credential_id, secret = await _insert(tx, service, row, lifetime)
    event = ServiceAccountCredentialAdded(**_ids(row), credential_id=credential_id, changed_by=who.subject)
    await _tell(tx, service, event, row["version"])
    return row, credential_id, secret


async def remove_credential(
    tx: Transaction, service: Service, who: Principal, service_account_id: UUID, credential_id: UUID
) -> None:
    """End a secret, and the access tokens that were issued for it."""
    row = await _locked(tx, who, service_account_id)
    not_more_than_own(who, frozenset(row["scopes"]))
    ended = await tx.fetchval(
        "delete from service_account_credential where tenant_id = $1 and service_account_id = $2"
        " and credential_id = $3 returning true",
        who.tenant_id,
        service_account_id,
        credential_id,
    )
    if not ended:
        raise NotFound("credential", credential_id)
    row = await _changed(tx, service, row)
    event = ServiceAccountCredentialRemoved(**_ids(row), credential_id=credential_id, changed_by=who.subject)
    await _tell(tx, service, event, row["version"])
    await tell_of_ended(tx, service, who.tenant_id, service_account_id, [credential_id], "revoked")


async def delete_service_account(tx: Transaction, service: Service, who: Principal, service_account_id: UUID) -> None:
    """Delete an account, its secrets, and all access tokens that it was issued."""
    row = await _locked(tx, who, service_account_id)
    not_more_than_own(who, frozenset(row["scopes"]))
    await tx.execute(
        "delete from service_account where tenant_id = $1 and service_account_id = $2",
        who.tenant_id,
        service_account_id,
    )
    await _tell(tx, service, ServiceAccountDeleted(**_ids(row), changed_by=who.subject), row["version"] + 1)
    await revoke_access(tx, service, {"tenant_id": who.tenant_id, "user_id": service_account_id})


async def _locked(tx: Transaction, who: Principal, service_account_id: UUID) -> Any:
    row = await tx.fetchrow(
        "select * from service_account where tenant_id = $1 and service_account_id = $2 for update",
        who.tenant_id,
        service_account_id,
    )
    if row is None:
        raise NotFound("service account", service_account_id)
    return row


async def _changed(tx: Transaction, service: Service, row: Any) -> Any:
    return await tx.fetchrow(
        "update service_account set version = version + 1, updated_at = $3"
        " where tenant_id = $1 and service_account_id = $2 returning *",
        row["tenant_id"],
        row["service_account_id"],
        service.clock.now(),
    )


async def _insert(tx: Transaction, service: Service, row: Any, lifetime: timedelta | None) -> tuple[UUID, str]:
    credential_id, secret, now = new_id(), new_token(), service.clock.now()
    await tx.execute(
        "insert into service_account_credential"
        " (tenant_id, credential_id, service_account_id, secret_hash, created_at, expires_at)"
        " values ($1, $2, $3, $4, $5, $6)",
        row["tenant_id"],
        credential_id,
        row["service_account_id"],
        digest(secret),
        now,
        now + lifetime if lifetime else None,
    )
    return credential_id, secret


def _ids(row: Any) -> dict[str, UUID]:
    return {"service_account_id": row["service_account_id"], "tenant_id": row["tenant_id"]}


def _told(row: Any) -> dict[str, Any]:
    return {name: row[name] for name in ("service_account_id", "tenant_id", "name", "description", "scopes")}


async def _tell(tx: Transaction, service: Service, event: Event, version: int) -> None:
    await publish(tx, [Outgoing(event, version)], source=service.source, clock=service.clock)
