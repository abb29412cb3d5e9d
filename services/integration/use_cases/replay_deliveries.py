"""Deliver events again: one, or all of a span of time."""

from datetime import datetime
from typing import Any
from uuid import UUID

from chassis.http.problem import Conflict, NotFound, Unprocessable
from chassis.ids import new_id
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from services.integration.tables import lock_feed, queue_deliveries
from services.integration.use_cases.authorize import may_read
from services.integration.use_cases.record_events import DISPATCHER

MOST_REPLAYED = 10_000


async def replay_span(
    tx: Transaction, service: Service, who: Principal, endpoint_id: UUID, since: datetime, until: datetime
) -> int:
    """Queue the events that were recorded in a span of time and that the endpoint wants; return how many those are.

    Whether they were delivered before does not matter: an event keeps its id, by which the receiver knows it. It takes
    the scopes to read what the endpoint is sent.
    """
    tenant_id = who.tenant_id
    await lock_feed(tx, tenant_id)
    endpoint = await _endpoint(tx, tenant_id, endpoint_id)
    may_read(who, endpoint["event_types"])
    rows = await tx.fetch(
        "select position, event_id, type from feed_event where tenant_id = $1 and recorded_at >= $2"
        " and recorded_at < $3 and (cardinality($4::text[]) = 0 or type = any($4)) order by position limit $5",
        tenant_id,
        since,
        until,
        endpoint["event_types"],
        MOST_REPLAYED + 1,
    )
    if len(rows) > MOST_REPLAYED:
        detail = f"More than {MOST_REPLAYED:,} events are of that time: ask for a shorter one."
        raise Unprocessable("too-many-events", detail)
    await _queue(tx, service, tenant_id, endpoint_id, rows)
    return len(rows)


async def replay_delivery(tx: Transaction, service: Service, who: Principal, delivery_id: UUID) -> Any:
    """Queue the event of a delivery that has ended, and return the row of the new delivery.

    It takes the scope to read the event: the endpoint may have been sent others then, somewhere else.
    """
    tenant_id = who.tenant_id
    await lock_feed(tx, tenant_id)
    row = await tx.fetchrow(
        "select endpoint_id, position, event_id, event_type as type, status from webhook_delivery"
        " where tenant_id = $1 and delivery_id = $2",
        tenant_id,
        delivery_id,
    )
    if row is None:
        raise NotFound("webhook delivery", delivery_id)
    may_read(who, [row["type"]])
    await _endpoint(tx, tenant_id, row["endpoint_id"])
    if row["status"] == "pending":
        raise Conflict("wrong-state", "The delivery has not ended: it is still being tried.")
    (made,) = await _queue(tx, service, tenant_id, row["endpoint_id"], [row])
    return await tx.fetchrow(
        "select * from webhook_delivery where tenant_id = $1 and delivery_id = $2", tenant_id, made
    )


async def _endpoint(tx: Transaction, tenant_id: UUID, endpoint_id: UUID) -> Any:
    """Return an endpoint, held so that it is neither deleted nor disabled meanwhile."""
    row = await tx.fetchrow(
        "select enabled, event_types from webhook_endpoint where tenant_id = $1 and endpoint_id = $2 for share",
        tenant_id,
        endpoint_id,
    )
    if row is None:
        raise NotFound("webhook endpoint", endpoint_id)
    if not row["enabled"]:
        raise Conflict("endpoint-disabled", "The webhook endpoint is disabled: enable it first.")
    return row


async def _queue(tx: Transaction, service: Service, tenant_id: UUID, endpoint_id: UUID, rows: list[Any]) -> list[UUID]:
    deliveries = [(tenant_id, new_id(), endpoint_id, row["position"], row["event_id"], row["type"]) for row in rows]
    await queue_deliveries(tx, service.clock.now(), deliveries, replay=True)
    tx.after_commit(lambda: service.wake(DISPATCHER))
    return [delivery[1] for delivery in deliveries]
