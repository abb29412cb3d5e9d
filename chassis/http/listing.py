"""The one way in which services list things: by id, with a cursor and equality filters."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from pydantic import BaseModel
from starlette.responses import Response

from chassis.http.pagination import Page, decode_cursor, paginate
from chassis.http.problem import NotFound
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service


async def list_page(
    service: Service,
    who: Principal,
    table: str,
    key: str,
    view: Callable[[Any], BaseModel],
    limit: int,
    cursor: str | None,
    filters: dict[str, Any],
    *,
    everywhere: bool = False,
) -> Response:
    """Answer with a page of a table. `filters` maps columns, never the caller's text, to values or None.

    everywhere: not the caller's tenant alone, but all that row-level security shows: to the platform, every tenant's.
    """
    after = decode_cursor(cursor, UUID)
    wanted = filters if everywhere else {"tenant_id": who.tenant_id, **filters}
    given = {f"{column} =": value for column, value in wanted.items() if value is not None}
    if after:
        given[f"{key} >"] = after[0]
    where = " and ".join(f"{column} ${index}" for index, column in enumerate(given, 2)) or "true"
    async with service.db.for_tenant(who.tenant_id) as tx:
        rows = await tx.fetch(
            f"select * from {table} where {where} order by {key} limit $1", limit + 1, *given.values()
        )
    page, next_cursor = paginate(rows, limit, lambda row: [row[key]])
    return json(Page[Any](items=[view(row) for row in page], next_cursor=next_cursor))


async def one(tx: Transaction, who: Principal, table: str, key: str, identifier: UUID, name: str) -> Any:
    """Return a row, or raise Problem 404."""
    row = await tx.fetchrow(f"select * from {table} where tenant_id = $1 and {key} = $2", who.tenant_id, identifier)
    if row is None:
        raise NotFound(name, identifier)
    return row
