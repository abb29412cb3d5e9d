"""The inbox: what a consumer has met, recorded with what it did about it, so that effects happen once (law 3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from chassis.persistence.database import Transaction
from dotmac_contracts.envelope import Envelope


class Arrival(NamedTuple):
    """An event that arrived; the topic and the key of its record, unless no dead letter may stand in its way."""

    envelope: Envelope
    topic: str | None = None
    key: bytes | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What came of recording arrivals."""

    new: set[tuple[str, UUID]]
    """Source and id of those that the consumer meets for the first time. Never of one whose key is blocked."""
    blocked: set[tuple[str, bytes | None]]
    """Topics and keys that have an open dead letter."""


# The shared lock waits for a replay under way, which may be about to free the key, and holds off the next one.
_RECORD = """
with arrived as (
    select * from unnest($2::text[], $3::uuid[], $4::text[], $5::bytea[]) as a (source, event_id, topic, key)
), blocked as materialized (
    select topic, key from dead_letter
    where consumer = $1 and resolved_at is null and (topic, key) in (select topic, key from arrived) for share
), recorded as (
    insert into inbox (consumer, source, event_id)
    select $1, source, event_id from arrived a
    where not exists (select from blocked b where b.topic = a.topic and b.key = a.key)
    on conflict do nothing returning source, event_id
)
select source, event_id, null as topic, null as key from recorded
union all select null, null, topic, key from blocked
"""


async def record(tx: Transaction, consumer: str, arrivals: Sequence[Arrival]) -> Recorded:
    """Record arrivals in one round trip; tell which are new and which keys are blocked."""
    rows = await tx.fetch(
        _RECORD,
        consumer,
        [arrival.envelope.source for arrival in arrivals],
        [arrival.envelope.id for arrival in arrivals],
        [arrival.topic for arrival in arrivals],
        [arrival.key for arrival in arrivals],
    )
    return Recorded(
        {(row["source"], row["event_id"]) for row in rows if row["event_id"]},
        {(row["topic"], row["key"]) for row in rows if row["topic"]},
    )
