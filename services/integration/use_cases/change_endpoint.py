"""Create, change and delete webhook endpoints, and give them other secrets."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from chassis.http.problem import Conflict, Unprocessable
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from dotmac_contracts.envelope import Event
from dotmac_contracts.integration import (
    WebhookEndpointCreated,
    WebhookEndpointDeleted,
    WebhookEndpointDisabled,
    WebhookEndpointUpdated,
    WebhookSecretRotated,
)
from services.integration import metrics
from services.integration.domain.addresses import Refused, check_url
from services.integration.domain.signature import new_secret
from services.integration.settings import webhook_settings
from services.integration.tables import lock_endpoint, lock_feed
from services.integration.use_cases.authorize import may_read

MOST_ENDPOINTS = 20
CHANGEABLE = ("url", "event_types", "description", "enabled")


async def create_endpoint(tx: Transaction, service: Service, who: Principal, fields: dict[str, Any]) -> tuple[Any, str]:
    """Return the endpoint's row, and its secret, which is told this once."""
    may_read(who, fields["event_types"])
    host = _host(fields["url"])
    tenant_id = who.tenant_id
    await lock_feed(tx, tenant_id)  # two at once could both be the last one
    if await tx.fetchval("select count(*) from webhook_endpoint") >= MOST_ENDPOINTS:
        raise Conflict("too-many-endpoints", f"There can be {MOST_ENDPOINTS} webhook endpoints: delete one first.")
    secret = new_secret()
    row = await tx.fetchrow(
        "insert into webhook_endpoint"
        " (tenant_id, endpoint_id, url, event_types, description, enabled, secret, version, created_at, updated_at)"
        " values ($1, $2, $3, $4, $5, $6, $7, 1, $8, $8) returning *",
        tenant_id,
        new_id(),
        *(fields[name] for name in CHANGEABLE),
        service.vault.seal(secret.encode()),
        service.clock.now(),
    )
    assert row is not None
    await tx.execute(
        "insert into webhook_queue (tenant_id, endpoint_id) values ($1, $2)", tenant_id, row["endpoint_id"]
    )
    await _tell(tx, service, row, WebhookEndpointCreated(host=host, **_told(row)))
    return row, secret


async def update_endpoint(tx: Transaction, service: Service, who: Principal, row: Any, changes: dict[str, Any]) -> Any:
    """Apply changes to an endpoint that is locked, and return its row. What waits for one that is disabled fails.

    It takes the scopes to read what the endpoint was sent before, what still waits for it, and what it will be sent.
    """
    fields = {**{name: row[name] for name in CHANGEABLE}, **changes}
    may_read(who, row["event_types"])
    may_read(who, fields["event_types"])
    if waiting := await _waiting_types(tx, row):  # of types that it had once, and is sent wherever it is now
        may_read(who, waiting)
    host = _host(fields["url"])
    if fields == {name: row[name] for name in CHANGEABLE}:
        return row
    now, identity = service.clock.now(), (row["tenant_id"], row["endpoint_id"])
    row = await tx.fetchrow(
        "update webhook_endpoint set url = $3, event_types = $4, description = $5, enabled = $6,"
        " disabled_reason = case when $6 then null else disabled_reason end, version = version + 1, updated_at = $7"
        " where tenant_id = $1 and endpoint_id = $2 returning *",
        *identity,
        *fields.values(),
        now,
    )
    if not row["enabled"]:
        await _drop_waiting(tx, identity, now)
    await _tell(tx, service, row, WebhookEndpointUpdated(host=host, **_told(row)))
    return row


async def disable_endpoint(tx: Transaction, service: Service, row: Any, reason: str, failing_since: datetime) -> None:
    """Send nothing more to an endpoint that is locked; its owner is told by an event."""
    now, identity = service.clock.now(), (row["tenant_id"], row["endpoint_id"])
    row = await tx.fetchrow(
        "update webhook_endpoint set enabled = false, disabled_reason = $3, version = version + 1, updated_at = $4"
        " where tenant_id = $1 and endpoint_id = $2 returning *",
        *identity,
        reason,
        now,
    )
    await _drop_waiting(tx, identity, now)
    ids = {name: row[name] for name in ("tenant_id", "endpoint_id")}
    await _tell(tx, service, row, WebhookEndpointDisabled(**ids, reason=reason, failing_since=failing_since))
    tx.after_commit(metrics.DISABLED.inc)


async def rotate_secret(
    tx: Transaction, service: Service, who: Principal, endpoint_id: UUID, overlap: timedelta
) -> tuple[Any, str]:
    """Return the endpoint's row and its new secret; the old one signs as well until the overlap is over."""
    tenant_id = who.tenant_id
    row = await lock_endpoint(tx, tenant_id, endpoint_id)
    may_read(who, row["event_types"])  # whoever has the secret can make events up
    secret, now = new_secret(), service.clock.now()
    row = await tx.fetchrow(
        "update webhook_endpoint set previous_secret = secret, previous_until = $4, secret = $3,"
        " version = version + 1, updated_at = $5 where tenant_id = $1 and endpoint_id = $2 returning *",
        tenant_id,
        endpoint_id,
        service.vault.seal(secret.encode()),
        now + overlap,
        now,
    )
    assert row is not None
    event = WebhookSecretRotated(endpoint_id=endpoint_id, tenant_id=tenant_id, previous_until=row["previous_until"])
    await _tell(tx, service, row, event)
    return row, secret


async def delete_endpoint(tx: Transaction, service: Service, tenant_id: UUID, endpoint_id: UUID) -> None:
    """Delete an endpoint, what waits for it, and what is told of its deliveries."""
    row = await lock_endpoint(tx, tenant_id, endpoint_id)
    await tx.execute("delete from webhook_endpoint where tenant_id = $1 and endpoint_id = $2", tenant_id, endpoint_id)
    event = WebhookEndpointDeleted(endpoint_id=endpoint_id, tenant_id=tenant_id)
    await publish(tx, [Outgoing(event, row["version"] + 1)], source=service.source, clock=service.clock)


async def _waiting_types(tx: Transaction, row: Any) -> list[str]:
    rows = await tx.fetch(
        "select distinct event_type from webhook_delivery"
        " where tenant_id = $1 and endpoint_id = $2 and status = 'pending'",
        row["tenant_id"],
        row["endpoint_id"],
    )
    return [waiting["event_type"] for waiting in rows]


async def _drop_waiting(tx: Transaction, identity: tuple[UUID, UUID], now: datetime) -> None:
    await tx.execute(
        "update webhook_queue set due_at = null, lease = null, leased_until = null, failing_since = null"
        " where tenant_id = $1 and endpoint_id = $2",
        *identity,
    )
    await tx.execute(
        "update webhook_delivery set status = 'failed', finished_at = $3"
        " where tenant_id = $1 and endpoint_id = $2 and status = 'pending'",
        *identity,
        now,
    )


def _host(url: str) -> str:
    try:
        return check_url(url, allow_loopback=webhook_settings().allow_loopback)
    except Refused as reason:
        raise Unprocessable("url-refused", f"Events can't be sent to this URL: {reason}.") from None


def _told(row: Any) -> dict[str, Any]:
    names: Sequence[str] = ("endpoint_id", "tenant_id", "event_types", "description", "enabled")
    return {name: row[name] for name in names}


async def _tell(tx: Transaction, service: Service, row: Any, event: Event) -> None:
    await publish(tx, [Outgoing(event, row["version"])], source=service.source, clock=service.clock)
