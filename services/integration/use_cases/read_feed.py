"""Read on in a tenant's feed."""

from collections.abc import Sequence
from uuid import UUID

from chassis.http.problem import Problem
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service
from services.integration.domain.guards import hidden_from

MOST_AT_ONCE = 200


async def newest(service: Service, tenant_id: UUID) -> int:
    """Return the position of the newest event, 0 if there is none."""
    async with service.db.for_tenant(tenant_id) as tx:
        position, _ = await _ends(tx, tenant_id)
    return position


async def read_on(
    service: Service, who: Principal, after: int, types: Sequence[str]
) -> tuple[list[tuple[int, bytes]], int]:
    """Return events after a position, of these types or of all, and the position up to which there is nothing else.

    An event is its position and its document; there are `MOST_AT_ONCE` at most. Those of domains that the reader has no
    scope for are passed over, as those of other types are. Problem 410 if some are gone by now.
    The newest position is looked up first: all up to there is committed, whoever wrote it.
    """
    async with service.db.for_tenant(who.tenant_id) as tx:
        last, forgotten = await _ends(tx, who.tenant_id)
        if not (forgotten <= after <= last):
            raise Problem(
                410,
                "events-gone",
                f"There is no going on from {after}: what is kept begins after {forgotten} and ends with {last}.",
                earliest=forgotten,
                latest=last,
            )
        rows = await tx.fetch(
            "select position, document from feed_event where tenant_id = $1 and position > $2 and position <= $3"
            " and (cardinality($4::text[]) = 0 or type = any($4))"
            " and split_part(type, '.', 2) <> all($5::text[]) order by position limit $6",
            who.tenant_id,
            after,
            last,
            list(types),
            hidden_from(who.scopes),
            MOST_AT_ONCE,
        )
    events = [(row["position"], row["document"]) for row in rows]
    return events, events[-1][0] if len(events) == MOST_AT_ONCE else last


async def _ends(tx: Transaction, tenant_id: UUID) -> tuple[int, int]:
    row = await tx.fetchrow("select position, forgotten from feed where tenant_id = $1", tenant_id)
    return (row["position"], row["forgotten"]) if row else (0, 0)
