"""Storage of customers."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from chassis.http.problem import Conflict
from chassis.persistence.database import Transaction
from services.customer.domain.customer import FIELDS

COLUMNS = f"tenant_id, customer_id, {', '.join(FIELDS)}, version, created_at, updated_at"
_TYPES = {"paperless_billing": "boolean"}
_CAST = [_TYPES.get(name, "text") for name in FIELDS]
_PLACES = ", ".join(f"${index}::{kind}[]" for index, kind in enumerate(_CAST, 4))
_SETS = ", ".join(f"{name} = x.{name}" for name in FIELDS)
_INSERT = (
    f"insert into customer (tenant_id, customer_id, version, {', '.join(FIELDS)})"
    f" select $1, * from unnest($2::uuid[], $3::int[], {_PLACES})"
)
_UPDATE = (
    f"update customer c set version = x.version, updated_at = now(), {_SETS}"
    f" from unnest($2::uuid[], $3::int[], {_PLACES}) as x (customer_id, version, {', '.join(FIELDS)})"
    " where c.tenant_id = $1 and c.customer_id = x.customer_id"
)

Row = tuple[UUID, int, dict[str, Any]]
"""Id, version, fields."""


def _columns(rows: Sequence[Row]) -> list[list[Any]]:
    return [
        [row[0] for row in rows],
        [row[1] for row in rows],
        *([row[2][name] for row in rows] for name in FIELDS),
    ]


async def require_workspace(tx: Transaction) -> None:
    """Problem 409 if the transaction's tenant has no workspace here: its customers would be nobody's to bill.

    So is one that has an instance of its own, where a request comes past it.
    """
    if await tx.fetchval("select 1 from workspace where removed_at is null") is None:
        raise Conflict("not-deployed", "The tenant has no workspace: deploy it first.")


async def insert_customers(tx: Transaction, tenant_id: UUID, rows: Sequence[Row]) -> None:
    """Insert customers in one statement."""
    if rows:
        await tx.execute(_INSERT, tenant_id, *_columns(rows))


async def update_customers(tx: Transaction, tenant_id: UUID, rows: Sequence[Row]) -> None:
    """Update customers that were locked, in one statement."""
    if rows:
        await tx.execute(_UPDATE, tenant_id, *_columns(rows))


async def lock_customer(tx: Transaction, tenant_id: UUID, customer_id: UUID) -> Any:
    """Lock and load a customer (law 2: before its events go into the outbox)."""
    return await tx.fetchrow(
        f"select {COLUMNS} from customer where tenant_id = $1 and customer_id = $2 for update", tenant_id, customer_id
    )
