"""The outbox: a use case inserts its events in its own transaction (laws 1 and 2)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from chassis.clock import Clock
from chassis.ids import new_id
from chassis.messaging import metrics
from chassis.messaging.spans import Creation
from chassis.persistence.database import Transaction
from chassis.security.actors import Actor, current
from dotmac_contracts.envelope import Envelope, Event, headers_of


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event to publish, with the version of its aggregate after the change that it tells of."""

    event: Event
    aggregate_version: int
    cause: Envelope | None = None
    """The envelope of the event that this one answers."""


_INSERT = """
insert into outbox (event_id, topic, key, tenant_id, headers, value)
select * from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::json[], $6::bytea[])
"""

_TURN = 100
"""Events that are encoded at a time."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Events as they go into the outbox: a column each of ids, topics, keys, tenants, headers, values."""

    events: Sequence[Event]
    columns: tuple[Sequence[object], ...]
    creation: Creation


async def prepare(outgoing: Sequence[Outgoing], *, source: str, clock: Clock) -> Prepared:
    """Encode events, which is a bulk's larger part of publishing and needs no database."""
    creation, now, actor = Creation(), clock.now(), current()
    rows: list[tuple[object, ...]] = []
    for item in outgoing:
        if rows and len(rows) % _TURN == 0:
            await asyncio.sleep(0)  # whoever shares the process has its turn
        event, envelope = item.event, _envelope(item, source, creation, now, actor)
        value = event.model_dump_json().encode()
        key, tenant = envelope.partitionkey, envelope.tenantid
        rows.append((envelope.id, event.TOPIC.name, key, tenant, headers_of(envelope), value))
    return Prepared([item.event for item in outgoing], tuple(zip(*rows, strict=True)), creation)


async def publish_prepared(tx: Transaction, prepared: Prepared) -> None:
    """Insert events in one statement. Lock their aggregates first: that order alone keeps their order."""
    if not prepared.events:
        return
    await tx.execute(_INSERT, *prepared.columns)
    tx.wrote_outbox = True
    tx.after_commit(prepared.creation.end)
    tx.after_commit(lambda: metrics.count_published(prepared.events))


async def publish(tx: Transaction, outgoing: Sequence[Outgoing], *, source: str, clock: Clock) -> None:
    """Prepare and insert events, with their aggregates locked."""
    await publish_prepared(tx, await prepare(outgoing, source=source, clock=clock))


def _envelope(item: Outgoing, source: str, creation: Creation, now: datetime, actor: Actor) -> Envelope:
    cause, event, event_id = item.cause, item.event, new_id()
    if cause is not None:
        actor = Actor.of(cause)
    key = event.key
    return Envelope(
        id=event_id,
        source=source,
        type=event.TYPE,
        time=now,
        subject=key,
        partitionkey=key,
        tenantid=event.tenant_id,
        aggregateversion=item.aggregate_version,
        causationid=cause.id if cause else None,
        correlationid=(cause.correlationid or cause.id) if cause else None,
        traceparent=creation.traceparent(event, event_id, cause),
        actor=actor.actor,
        actorkind=actor.actorkind,
        clientaddress=actor.clientaddress,
    )
