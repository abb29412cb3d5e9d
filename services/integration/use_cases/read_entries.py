"""Read the audit log: a page at a time, or all of it."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from chassis.security.principals import Principal
from chassis.service import Service

Position = tuple[datetime, UUID]
"""When an entry's event was, and its id."""

_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Search:
    """Which entries are wanted: those with all that is given. The span ends before `until`."""

    tenant_id: UUID
    actor: str | None = None
    action: str | None = None
    resource_type: str | None = None
    resource_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def conditions(self) -> dict[str, Any]:
        """Return the conditions in SQL, each with its value."""
        return {
            "tenant_id =": self.tenant_id,
            **{
                f"{column} {operator}": value
                for column, operator, value in (
                    ("actor", "=", self.actor),
                    ("action", "=", self.action),
                    ("resource_type", "=", self.resource_type),
                    ("resource_id", "=", self.resource_id),
                    ("occurred_at", ">=", self.since),
                    ("occurred_at", "<", self.until),
                )
                if value is not None
            },
        }


async def read_entries(
    service: Service, who: Principal, search: Search, limit: int, after: Position | None, *, newest_first: bool = True
) -> Sequence[Any]:
    """Return the rows of at most `limit` entries behind a position.

    Row-level security shows a tenant its own, and the platform those of every tenant.
    """
    conditions = search.conditions()
    where = [f"{condition} ${number}" for number, condition in enumerate(conditions, 1)]
    values = [*conditions.values()]
    if after is not None:
        behind = "<" if newest_first else ">"
        where.append(f"(occurred_at, entry_id) {behind} (${len(values) + 1}, ${len(values) + 2})")
        values += after
    order = "occurred_at desc, entry_id desc" if newest_first else "occurred_at, entry_id"
    async with service.db.for_tenant(who.tenant_id) as tx:
        return await tx.fetch(
            f"select * from audit_entry where {' and '.join(where)} order by {order} limit ${len(values) + 1}",
            *values,
            limit,
        )


async def all_entries(service: Service, who: Principal, search: Search) -> AsyncIterator[Sequence[Any]]:
    """Yield the rows of all entries, the oldest first, some at a time: a slow reader holds no connection."""
    after: Position | None = None
    while rows := await read_entries(service, who, search, _AT_ONCE, after, newest_first=False):
        yield rows
        after = rows[-1]["occurred_at"], rows[-1]["entry_id"]
