"""Snapshots: what aggregates are now, each whole, on a compacted topic, so that a new system need not read history.

A service follows its own events and publishes the present state of what they are about. Two changes in quick succession
may so give the same snapshot twice, or one snapshot for both; a later one never says less than one before it.
"""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.envelope import EVENTS, Event
from dotmac_contracts.topics import Topic


def subscription(service: Service, topic: Topic, present: str, snapshot: Callable[[Any], Event]) -> Subscription:
    """Return what keeps the snapshots of a topic's aggregates up to date.

    present: the statement that selects aggregates, each with its `version`, by tenants ($1) and ids ($2).
    snapshot: makes the event of such a row.
    """

    async def renew(tx: Transaction, received: Sequence[Received[Any]]) -> None:
        last = {item.envelope.partitionkey: item.envelope for item in received}
        rows = await tx.fetch(present, [cause.tenantid for cause in last.values()], [UUID(key) for key in last])
        told = [(snapshot(row), row["version"]) for row in rows]
        outgoing = [Outgoing(event, version, last[event.key]) for event, version in told]
        await publish(tx, outgoing, source=service.source, clock=service.clock)

    kinds = [event for event in EVENTS.values() if event.TOPIC is topic]
    return Subscription(f"{service.name}-snapshots", [topic], dict.fromkeys(kinds, renew))
