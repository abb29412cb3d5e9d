"""Storage of endpoints."""

from typing import Any
from uuid import UUID

from chassis.http.problem import NotFound
from chassis.persistence.database import Transaction


async def lock_endpoint(tx: Transaction, tenant_id: UUID, endpoint_id: UUID) -> Any:
    """Lock and load an endpoint (law 2: before its events go into the outbox); Problem 404 if there is none."""
    row = await tx.fetchrow(
        "select * from webhook_endpoint where tenant_id = $1 and endpoint_id = $2 for update", tenant_id, endpoint_id
    )
    if row is None:
        raise NotFound("webhook endpoint", endpoint_id)
    return row


async def lock_feed(tx: Transaction, tenant_id: UUID) -> int:
    """Hold a tenant's feed until the transaction ends, so that what is queued becomes visible in its order.

    Gives the position of the newest event.
    """
    return int(
        await tx.fetchval(
            "insert into feed (tenant_id, position) values ($1, 0)"
            " on conflict (tenant_id) do update set position = feed.position returning position",
            tenant_id,
        )
    )


async def queue_deliveries(
    tx: Transaction, now: Any, deliveries: list[tuple[UUID, UUID, UUID, int, UUID, str]], *, replay: bool
) -> None:
    """Put deliveries behind those that wait, in this order, and have their endpoints looked at.

    Each is tenant, delivery, endpoint, position, event and event type. Whoever calls holds the tenants' feeds.
    """
    if not deliveries:
        return
    await tx.execute(
        "insert into webhook_delivery"
        " (tenant_id, delivery_id, endpoint_id, position, event_id, event_type, replay, created_at)"
        " select t, d, e, p, i, y, $7, $8"
        " from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::uuid[], $6::text[])"
        " with ordinality as x (t, d, e, p, i, y, n) order by n",
        *(list(column) for column in zip(*deliveries, strict=True)),
        replay,
        now,
    )
    # Every row is locked, whether it changes or not: who is about to find nothing more to do waits until this commits.
    await tx.execute(
        "update webhook_queue q set due_at = coalesce(due_at, $3)"
        " from (select tenant_id, endpoint_id from webhook_queue"
        " where (tenant_id, endpoint_id) in (select * from unnest($1::uuid[], $2::uuid[]))"
        " order by endpoint_id for update) as x where (q.tenant_id, q.endpoint_id) = (x.tenant_id, x.endpoint_id)",
        [delivery[0] for delivery in deliveries],
        [delivery[2] for delivery in deliveries],
        now,
    )
