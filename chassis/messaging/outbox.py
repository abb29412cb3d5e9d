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
from chassis.telemetry import traces
from dotmac_contracts.envelope import Envelope, Event, Tombstone, headers_of


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An event to publish, with the version of its aggregate after the change that it tells of."""

    event: Event
    aggregate_version: int
    cause: Envelope | None = None
    """The envelope of the event that this one answers."""


_COLUMNS = ("event_id", "topic", "key", "tenant_id", "headers", "value")
_INTO = f"insert into outbox ({', '.join(_COLUMNS)})"
_INSERT = f"""
{_INTO}
select * from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::json[], $6::bytea[])
"""

# An id, a key and a version each; the rest they have in common.
_BURY = f"""
{_INTO}
select id, $1, key, $2, ($3::jsonb || jsonb_build_object(
    'ce_id', id, 'ce_subject', key, 'ce_partitionkey', key, 'ce_aggregateversion', version::text))::json, null
from (select uuidv7() as id, gone.* from ({{}}) as gone) as g
"""

_TURN = 100
"""Events that are encoded at a time."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Events as they go into the outbox: a row each of id, topic, key, tenant, headers, value."""

    events: Sequence[Event]
    rows: Sequence[tuple[object, ...]]
    creation: Creation


async def prepare(outgoing: Sequence[Outgoing], *, source: str, clock: Clock) -> Prepared:
    """Encode events, which is a bulk's larger part of publishing and needs no database."""
    creation, now = Creation(), clock.now()
    rows: list[tuple[object, ...]] = []
    for item in outgoing:
        if rows and len(rows) % _TURN == 0:
            await asyncio.sleep(0)  # whoever shares the process has its turn
        event, envelope = item.event, _envelope(item, source, creation, now)
        value = event.as_value()
        key, tenant = envelope.partitionkey, envelope.tenantid
        rows.append((envelope.id, event.TOPIC.name, key, tenant, headers_of(envelope), value))
    return Prepared([item.event for item in outgoing], rows, creation)


async def publish_prepared(tx: Transaction, prepared: Prepared) -> None:
    """Insert events in one statement. Lock their aggregates first: that order alone keeps their order."""
    if not prepared.events:
        return
    if len(prepared.rows) < _TURN:
        await tx.execute(_INSERT, *zip(*prepared.rows, strict=True))
    else:  # a copy takes a third of the time for each event, and a round trip more
        await tx.copy("outbox", _COLUMNS, prepared.rows)
    tx.wrote_outbox = True
    tx.after_commit(prepared.creation.end)
    tx.after_commit(lambda: metrics.count_published(prepared.events))


async def publish(tx: Transaction, outgoing: Sequence[Outgoing], *, source: str, clock: Clock) -> None:
    """Prepare and insert events, with their aggregates locked."""
    await publish_prepared(tx, await prepare(outgoing, source=source, clock=clock))


async def publish_tombstones(
    tx: Transaction, kind: type[Tombstone], gone: str, cause: Envelope, *, source: str, clock: Clock
) -> None:
    """Insert tombstones of one tenant in one statement, however many; each has the last version of its aggregate.

    gone: a query of `key` and `version` by the tenant, $2. cause: what asked for it; its tenant is theirs.
    """
    tenant = cause.tenantid
    common = _envelope(Outgoing(kind.of(tenant, tenant), 0, cause), source, Creation(), clock.now())
    if common.traceparent is not None:  # they are many, of one cause
        common = common._replace(traceparent=traces.unsampled(common.traceparent))
    tag = await tx.execute(_BURY.format(gone), kind.TOPIC.name, tenant, headers_of(common))
    count = int(tag.split()[-1])
    if count:
        tx.wrote_outbox = True
        tx.after_commit(lambda: metrics.PUBLISHED.labels(metrics.label(kind)).inc(count))


def _envelope(item: Outgoing, source: str, creation: Creation, now: datetime) -> Envelope:
    cause, event, event_id = item.cause, item.event, new_id()
    actor = Actor.of(cause) if cause else current()
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
