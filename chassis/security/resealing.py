"""What the former `SECRET_KEY` sealed is sealed anew under the present one, so that the former one can be left out.

A row is written only if it is still as it was read: whoever changes it meanwhile has sealed it under the present one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import structlog
from prometheus_client import Gauge

from chassis.ids import PLATFORM_TENANT
from chassis.security.vault import CanNotBeOpened
from chassis.service import Service

log = structlog.get_logger()

FORMER = Gauge(
    "dotmac_sealed_under_former_secret",
    "What was not yet sealed under the present SECRET_KEY when all was last looked at; absent without a former one.",
    ["service"],
)
_TENANTS_AT_ONCE = 100
_TENANTS = """
select id from (select $1::uuid as id union select * from present_tenants()) as present
where $2::uuid is null or id > $2 order by id limit $3
"""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A column of a table, by their names, that holds what the vault sealed."""

    table: str
    column: str


class Resealing:
    """Goes through all tenants, some a step, and from the beginning again: others may still seal under the former."""

    def __init__(self, service: Service, columns: Sequence[Sealed]) -> None:
        self._service = service
        self._columns = columns
        self._after: UUID | None = None
        self._found = 0

    async def step(self) -> bool:
        """Seal anew what some tenants have; False once all were looked at."""
        database = self._service.consumer_db
        async with database.unscoped() as tx:
            rows = await tx.fetch(_TENANTS, PLATFORM_TENANT, self._after, _TENANTS_AT_ONCE)
        if not rows:
            log.info("sealed_anew", service=self._service.name, found=self._found)
            FORMER.labels(self._service.name).set(self._found)
            self._after, self._found = None, 0
            return False
        tenants = [row["id"] for row in rows]
        for place in self._columns:
            self._found += await self._renew(place, tenants)
        self._after = tenants[-1]
        return True

    async def _renew(self, place: Sealed, tenants: Sequence[UUID]) -> int:
        """Seal a column of some tenants' rows anew; return how many values needed it."""
        table, column = place.table, place.column
        async with self._service.consumer_db.for_tenants(tenants) as tx:
            rows = await tx.fetch(
                f"select ctid::text as place, {column} as sealed from {table}"
                f" where tenant_id = any($1::uuid[]) and {column} is not null",
                tenants,
            )
            renewed = []
            found = 0
            for row in rows:
                try:
                    anew = self._service.vault.renewed(row["sealed"])
                except CanNotBeOpened:
                    found += 1
                    log.error("sealed_under_another_secret", service=self._service.name, table=table, column=column)
                    continue
                if anew is not None:
                    renewed.append((row["place"], row["sealed"], anew))
            if renewed:
                await tx.execute(
                    f"update {table} t set {column} = x.anew"
                    " from unnest($1::text[], $2::bytea[], $3::bytea[]) as x (place, sealed, anew)"
                    f" where t.ctid = x.place::tid and t.{column} = x.sealed",
                    *(list(values) for values in zip(*renewed, strict=True)),
                )
        return found + len(renewed)
