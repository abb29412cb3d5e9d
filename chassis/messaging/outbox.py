"""The outbox: a use case inserts its events in its own transaction (laws 1 and 2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from opentelemetry.propagate import inject

from chassis.clock import Clock
from chassis.ids import new_id
from chassis.persistence.database import Transaction
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
select * from unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::jsonb[], $6::bytea[])
"""


async def publish(tx: Transaction, outgoing: Sequence[Outgoing], *, source: str, clock: Clock) -> None:
    """Insert events in one statement. Lock their aggregates first: that order alone keeps their order."""
    if not outgoing:
        return
    carrier: dict[str, str] = {}
    inject(carrier)
    current = carrier.get("traceparent")
    now = clock.now()
    envelopes = [_envelope(item, source, current, now) for item in outgoing]
    events = [item.event for item in outgoing]
    await tx.execute(
        _INSERT,
        [envelope.id for envelope in envelopes],
        [event.TOPIC.name for event in events],
        [event.key for event in events],
        [envelope.tenantid for envelope in envelopes],
        [headers_of(envelope) for envelope in envelopes],
        [event.model_dump_json().encode() for event in events],
    )
    tx.wrote_outbox = True


def _envelope(item: Outgoing, source: str, traceparent: str | None, now: datetime) -> Envelope:
    cause, event = item.cause, item.event
    return Envelope.model_construct(
        id=new_id(),
        source=source,
        type=event.TYPE,
        time=now,
        subject=event.key,
        partitionkey=event.key,
        tenantid=event.tenant_id,
        aggregateversion=item.aggregate_version,
        causationid=cause.id if cause else None,
        correlationid=(cause.correlationid or cause.id) if cause else None,
        # In a batch each event continues the trace of its own cause, not that of the batch.
        traceparent=cause.traceparent if cause and cause.traceparent else traceparent,
    )
