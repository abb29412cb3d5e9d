"""An ISP signs up by itself; the platform approves, which registers it and invites its administrator, or rejects."""

from dataclasses import asdict, replace
from typing import Any
from uuid import UUID

from chassis.http.problem import Conflict, NotFound, Problem
from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.envelope import Event
from dotmac_contracts.tenant import SignUpApproved, SignUpRejected, SignUpRequested
from services.tenant.domain.tenant import Profile
from services.tenant.use_cases.invite import Invitation, invite_first
from services.tenant.use_cases.register_tenant import register_tenant

MOST_PENDING = 1_000
"""More would be read by nobody; and a flood must not fill the table."""


async def sign_up(service: Service, profile: Profile) -> None:
    """Note it for the platform to decide; a second one of an address that waits changes nothing, and nobody is told so.

    Nothing is said of a slug that is taken either: whoever signs up learns of no other ISP. Problem 429 when too many
    wait.
    """
    fields = asdict(profile)
    async with service.db.for_tenant(PLATFORM_TENANT) as tx:
        pending = await tx.fetchval(
            "select count(*) from sign_up where tenant_id = $1 and status = 'pending'", PLATFORM_TENANT
        )
        if pending >= MOST_PENDING:
            detail = "Too many sign-ups wait for an answer. Try again later."
            raise Problem(429, "too-many-sign-ups", detail, headers={"Retry-After": "3600"})
        places = ", ".join(f"${index}" for index in range(4, len(fields) + 4))
        row = await tx.fetchrow(
            f"insert into sign_up (tenant_id, sign_up_id, created_at, {', '.join(fields)}, status, version)"
            f" values ($1, $2, $3, {places}, 'pending', 1)"
            " on conflict (tenant_id, contact_email_lc) where status = 'pending' do nothing returning sign_up_id",
            PLATFORM_TENANT,
            new_id(),
            service.clock.now(),
            *fields.values(),
        )
        if row is not None:
            event = SignUpRequested(sign_up_id=row["sign_up_id"], tenant_id=PLATFORM_TENANT, **fields)
            await _tell(tx, service, event, 1)


async def approve(
    tx: Transaction, service: Service, who: Principal, sign_up_id: UUID, changes: dict[str, str]
) -> tuple[Any, Invitation]:
    """Register the tenant, with another slug or plan if need be; return its row and its administrator's invitation.

    Problem 409 if the slug is taken or it was decided already; Refused if the tenant can't be.
    """
    row = await _pending(tx, sign_up_id)
    profile = replace(Profile(**{name: row[name] for name in Profile.__dataclass_fields__}), **changes)
    tenant = await register_tenant(tx, service, profile, who.subject)
    invitation = await invite_first(tx, service, who, tenant["tenant_id"], profile.contact_email)
    version = await _decide(tx, service, who, sign_up_id, "approved", created=tenant["tenant_id"])
    event = SignUpApproved(
        sign_up_id=sign_up_id, tenant_id=PLATFORM_TENANT, created_tenant_id=tenant["tenant_id"], decided_by=who.subject
    )
    await _tell(tx, service, event, version)
    return tenant, invitation


async def reject(tx: Transaction, service: Service, who: Principal, sign_up_id: UUID, reason: str | None) -> None:
    """Turn it down; Problem 409 if it was decided already."""
    await _pending(tx, sign_up_id)
    version = await _decide(tx, service, who, sign_up_id, "rejected", reason=reason)
    event = SignUpRejected(sign_up_id=sign_up_id, tenant_id=PLATFORM_TENANT, reason=reason, decided_by=who.subject)
    await _tell(tx, service, event, version)


async def _pending(tx: Transaction, sign_up_id: UUID) -> Any:
    row = await tx.fetchrow(
        "select * from sign_up where tenant_id = $1 and sign_up_id = $2 for update", PLATFORM_TENANT, sign_up_id
    )
    if row is None:
        raise NotFound("sign-up", sign_up_id)
    if row["status"] != "pending":
        raise Conflict("wrong-state", f"It was {row['status']} already.")
    return row


async def _decide(
    tx: Transaction,
    service: Service,
    who: Principal,
    sign_up_id: UUID,
    status: str,
    *,
    reason: str | None = None,
    created: UUID | None = None,
) -> int:
    version: int = await tx.fetchval(
        "update sign_up set status = $3, reason = $4, created_tenant_id = $5, decided_at = $6, decided_by = $7,"
        " version = version + 1 where tenant_id = $1 and sign_up_id = $2 returning version",
        PLATFORM_TENANT,
        sign_up_id,
        status,
        reason,
        created,
        service.clock.now(),
        who.subject,
    )
    return version


async def _tell(tx: Transaction, service: Service, event: Event, version: int) -> None:
    await publish(tx, [Outgoing(event, version)], source=service.source, clock=service.clock)
