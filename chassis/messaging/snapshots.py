"""Snapshots: what aggregates are now, each whole, on a compacted topic, so that a new system need not read history.

A service follows its own events and publishes the present state of what they are about. Two changes in quick succession
may so give the same snapshot twice, or one snapshot for both; a later one never says less than one before it. When a
tenant's data is deleted, a tombstone takes the place of each snapshot, and none comes after it: who publishes a
snapshot holds a lock from before it reads the row until it has committed, which it shares with its like, and with
nobody who deletes the rows or publishes all of them.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from chassis.ids import PLATFORM_TENANT
from chassis.messaging.outbox import Outgoing, publish, publish_tombstones
from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.envelope import EVENTS, Envelope, Event, Tombstone
from dotmac_contracts.topics import Topic

_LOCK = 7_305_811
_GROUPS = 64
_PAGE = 1_000
_TENANTS_AT_ONCE = 100
_FIRST = UUID(int=0)

Progress = Callable[[int, int, int], Awaitable[None]]
"""Told how many tenants are done, of how many, and how many snapshots are published."""


@dataclass(frozen=True, slots=True)
class Snapshots:
    """How a service tells of its aggregates of one kind as they are now."""

    changes: Topic
    """Whose events say that an aggregate changed."""
    rows: str
    """The query of them all: their columns are named as the snapshot's fields, and `version`."""
    snapshot: Callable[[Any], Event]
    """Makes the snapshot of such a row, or its tombstone if there is nothing more to be told of it."""
    removed: type[Tombstone]
    name: str = "snapshots"
    """By which its consumer is known beside those of the service's other aggregates."""

    @property
    def _key(self) -> str:
        return self.removed.TOPIC.key

    def subscription(self, service: Service) -> Subscription:
        """Return what keeps the snapshots up to date."""
        present = (
            f"select * from ({self.rows}) as r"
            f" where (tenant_id, {self._key}) in (select * from unnest($1::uuid[], $2::uuid[]))"
        )

        async def renew(tx: Transaction, received: Sequence[Received[Any]]) -> None:
            last = {item.envelope.partitionkey: item.envelope for item in received}
            await _lock(tx, tx.tenants, "_shared")
            rows = await tx.fetch(present, [cause.tenantid for cause in last.values()], [UUID(key) for key in last])
            told = [(self.snapshot(row), row["version"]) for row in rows]
            outgoing = [Outgoing(event, version, last[event.key]) for event, version in told]
            await publish(tx, outgoing, source=service.source, clock=service.clock)

        kinds = [event for event in EVENTS.values() if event.TOPIC is self.changes]
        return Subscription(f"{service.name}-{self.name}", [self.changes], dict.fromkeys(kinds, renew))

    async def remove(self, tx: Transaction, service: Service, causes: Collection[Envelope]) -> None:
        """Publish a tombstone of each aggregate of tenants whose rows this transaction goes on to delete.

        causes: what asked for it, one of each tenant.
        """
        await _lock(tx, [cause.tenantid for cause in causes], "")
        for cause in causes:
            gone = f"select {self._key}::text as key, version from ({self.rows}) as r where tenant_id = $2"
            await publish_tombstones(tx, self.removed, gone, cause, source=service.source, clock=service.clock)

    async def publish_all(self, service: Service, progress: Progress) -> int:
        """Publish every aggregate of every tenant as it is now, while the service runs; return how many snapshots.

        For a topic that is new, or lost what the journal no longer has. It may be ended and begun anew at any time.
        """
        page = (
            f"select * from ({self.rows}) as r where (tenant_id, {self._key}) > ($1, $2) and tenant_id <= $3"
            f" order by tenant_id, {self._key} limit $4"
        )
        async with service.consumer_db.unscoped() as tx:
            tenants = [
                row[0]
                for row in await tx.fetch(
                    # The platform itself is none of them, and has aggregates of its own.
                    "select $1::uuid as id union select * from present_tenants() order by id",
                    PLATFORM_TENANT,
                )
            ]
        published = 0
        for start in range(0, len(tenants), _TENANTS_AT_ONCE):
            some = tenants[start : start + _TENANTS_AT_ONCE]
            place = (some[0], _FIRST)
            while True:
                async with service.consumer_db.for_tenants(some) as tx:
                    await _lock(tx, some, "")
                    rows = await tx.fetch(page, *place, some[-1], _PAGE)
                    outgoing = [Outgoing(self.snapshot(row), row["version"]) for row in rows]
                    await publish(tx, outgoing, source=service.source, clock=service.clock)
                published += len(rows)
                await progress(start + (0 if rows else len(some)), len(tenants), published)
                if not rows:
                    break
                place = (rows[-1]["tenant_id"], rows[-1][self._key])
        return published


async def _lock(tx: Transaction, tenants: Iterable[UUID], kind: str) -> None:
    """Lock the snapshots of tenants until the transaction ends.

    In the one order that keeps two from waiting for each other; in a statement of its own, so that what reads the rows
    sees all that was committed before the lock was had; of groups of tenants, since the server has room for few locks.
    """
    groups = sorted({tenant.int % _GROUPS for tenant in tenants})
    await tx.execute(f"select pg_advisory_xact_lock{kind}({_LOCK}, g) from unnest($1::int[]) as g", groups)
