"""Add events to their tenants' feeds, and queue them for the endpoints that want them."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from chassis.departure import departed
from chassis.ids import new_id
from chassis.messaging.subscription import Received
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.envelope import structured
from services.integration.domain.types import wants
from services.integration.tables import queue_deliveries

FEED_CHANNEL = "feed"
DISPATCHER = "webhooks"


async def record_events(tx: Transaction, service: Service, received: Sequence[Received[Any]]) -> None:
    """Give each event the next position of its tenant.

    The feeds' rows are held until the transaction ends. All of a batch are taken at its first event, in the order of
    their ids: two batches with the same tenants wait for each other, and never both ways.
    """
    gone = await departed(tx)
    received = [item for item in received if item.envelope.tenantid not in gone]
    if not received:
        return
    new = Counter(item.envelope.tenantid for item in received)
    rows = await tx.fetch(
        "insert into feed (tenant_id, position)"
        " select t, n from unnest($1::uuid[], $2::bigint[]) as x (t, n) order by t"
        " on conflict (tenant_id) do update set position = feed.position + excluded.position"
        " returning tenant_id, position",
        list(new),
        list(new.values()),
    )
    free = {row["tenant_id"]: row["position"] - new[row["tenant_id"]] for row in rows}
    events: list[tuple[UUID, int, UUID, str, bytes]] = []
    for item in received:
        envelope = item.envelope
        free[envelope.tenantid] += 1
        document = structured(item.event, envelope)
        events.append((envelope.tenantid, free[envelope.tenantid], envelope.id, envelope.type, document))
    now = service.clock.now()
    await tx.execute(
        "insert into feed_event (tenant_id, position, event_id, type, document, recorded_at)"
        " select *, $6 from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::bytea[])",
        *(list(column) for column in zip(*events, strict=True)),
        now,
    )
    # Held as well, so that one that is being deleted or disabled is either seen so or waits.
    endpoints: dict[UUID, list[Any]] = defaultdict(list)
    for row in await tx.fetch(
        "select tenant_id, endpoint_id, event_types from webhook_endpoint where enabled order by endpoint_id for share"
    ):
        endpoints[row["tenant_id"]].append(row)
    deliveries = [
        (tenant, new_id(), endpoint["endpoint_id"], position, event_id, kind)
        for tenant, position, event_id, kind, _ in events
        for endpoint in endpoints.get(tenant, ())
        if wants(endpoint["event_types"], kind)
    ]
    await queue_deliveries(tx, now, deliveries, replay=False)
    tx.wake(FEED_CHANNEL, new)
    if deliveries:
        tx.after_commit(lambda: service.wake(DISPATCHER))
