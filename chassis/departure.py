"""A tenant leaves: its data in this service is written down, deleted, and counted. The same in every service.

Which tables hold a tenant's rows is asked of the database itself, so that none can be forgotten. Columns that hold
secrets, or what is derived from others, are not written down.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Collection, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import orjson

from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.snapshots import Snapshots
from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.departure import DataDeleted, DataExported, ExportedFile, TableDeletion
from dotmac_contracts.envelope import Envelope
from dotmac_contracts.provisioning import DataDeletionRequested, DataExportRequested
from dotmac_contracts.topics import Topic

EVENTS = "events"
"""The name by which the proof knows outbox, journal and dead letters."""

_OWN = ("departure", "moving")
_MESSAGING = ("outbox", "journal")
_ROWS_AT_ONCE = 1000

_TABLES = """
select c.relname as name from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
where c.relkind in ('r', 'p') and not c.relispartition and c.relnamespace = 'public'::regnamespace
  and not c.relname = any($1::text[]) order by c.relname
"""
_REFERENCES = """
select c.relname as child, p.relname as parent from pg_constraint f
join pg_class c on c.oid = f.conrelid join pg_class p on p.oid = f.confrelid where f.contype = 'f'
"""
# Hashes and what is sealed are bytes; passwords are text.
_COLUMNS = """
select quote_ident(attname) as name from pg_attribute
where attrelid = quote_ident($1)::regclass and attnum > 0 and not attisdropped and attgenerated = ''
  and atttypid <> 'bytea'::regtype and attname !~ '(password|secret|hash)' order by attnum
"""


def subscription(
    service: Service,
    exported: type[DataExported],
    deleted: type[DataDeleted],
    *,
    snapshots: Snapshots | None = None,
    kept_tables: Collection[str] = (),
    kept_topics: Collection[Topic] = (),
) -> Subscription:
    """Return what a service does when a tenant leaves.

    snapshots: what a compacted topic says of its aggregates, to be taken back.
    kept_tables, kept_topics: what the platform itself knows of a tenant, and keeps when it has left.
    """
    kept = [*_OWN, *_MESSAGING, *kept_tables]
    topics_kept = [exported.TOPIC.name, *(topic.name for topic in kept_topics)]

    async def export(tx: Transaction, received: Sequence[Received[DataExportRequested]]) -> None:
        for item in received:
            ids = (item.event.tenant_id, item.event.deployment_id)
            folder = service.settings.export_directory
            files: list[ExportedFile] = []
            failure = "EXPORT_DIRECTORY is not set" if folder is None else None
            if folder is not None:
                try:
                    files = await _export(tx, folder / str(ids[0]) / str(ids[1]) / service.name, ids[0], kept)
                except OSError as error:
                    failure = f"{error.strerror or type(error).__name__}: {folder}"
            version = await tx.fetchval(
                "insert into departure as d (tenant_id, deployment_id, files, exported_at, version)"
                " values ($1, $2, $3, $4, 1) on conflict (tenant_id, deployment_id) do update"
                " set files = excluded.files, exported_at = excluded.exported_at, version = d.version + 1"
                " returning version",
                *ids,
                [file.model_dump() for file in files],
                service.clock.now(),
            )
            answer = exported(tenant_id=ids[0], deployment_id=ids[1], files=tuple(files), failure=failure)
            await answered(tx, answer, version, item.envelope)

    async def delete(tx: Transaction, received: Sequence[Received[DataDeletionRequested]]) -> None:
        if snapshots is not None:
            causes = {item.event.tenant_id: item.envelope for item in received}
            await snapshots.remove(tx, service, causes.values())
        for item in received:
            ids = (item.event.tenant_id, item.event.deployment_id)
            tables = [*await _delete(tx, ids[0], kept), await _forget_events(tx, ids[0], topics_kept)]
            version = await tx.fetchval(
                "insert into departure as d (tenant_id, deployment_id, tables, deleted_at, version)"
                " values ($1, $2, $3, $4, 1) on conflict (tenant_id, deployment_id) do update"
                " set tables = excluded.tables, deleted_at = excluded.deleted_at, version = d.version + 1"
                " returning version",
                *ids,
                [table.model_dump() for table in tables],
                service.clock.now(),
            )
            answer = deleted(tenant_id=ids[0], deployment_id=ids[1], step=item.event.step, tables=tuple(tables))
            await answered(tx, answer, version, item.envelope)

    async def answered(tx: Transaction, answer: DataExported | DataDeleted, version: int, cause: Envelope) -> None:
        await publish(tx, [Outgoing(answer, version, cause)], source=service.source, clock=service.clock)

    return Subscription(
        f"{service.name}-departures",
        [topics.PROVISIONING_DEPLOYMENT],
        {DataExportRequested: export, DataDeletionRequested: delete},
    )


async def departed(tx: Transaction) -> set[UUID]:
    """Return those of a transaction's tenants whose data was deleted: nothing more of them is to be kept."""
    rows = await tx.fetch("select distinct tenant_id from departure where deleted_at is not null")
    return {row["tenant_id"] for row in rows}


class _Database(Protocol):
    async def fetch(self, sql: str, /, *args: Any) -> Any: ...


async def _tables(tx: Transaction, kept: Collection[str]) -> list[str]:
    """Return the tables that hold tenants' rows, those that refer to others first."""
    return await referring_first(tx, [row["name"] for row in await tx.fetch(_TABLES, list(kept))])


async def referring_first(database: _Database, names: Collection[str]) -> list[str]:
    """Return tables in the order in which they can be emptied: those that refer to others first."""
    order = TopologicalSorter[str](dict.fromkeys(names, ()))
    for row in await database.fetch(_REFERENCES):
        if row["child"] != row["parent"]:
            order.add(row["parent"], row["child"])
    return [name for name in order.static_order() if name in names]


async def _export(tx: Transaction, folder: Path, tenant_id: UUID, kept: Collection[str]) -> list[ExportedFile]:
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True, mode=0o700)
    files = []
    for table in sorted(await _tables(tx, kept)):
        path = folder / f"{table}.ndjson"
        digest, rows = hashlib.sha256(), 0
        partial = path.with_suffix(".partial")
        with await asyncio.to_thread(partial.open, "wb") as file:
            async for lines in _lines(tx, table, tenant_id):
                content = b"".join(lines)
                await asyncio.to_thread(file.write, content)
                digest.update(content)
                rows += len(lines)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        await asyncio.to_thread(partial.replace, path)  # one that is there is whole
        files.append(ExportedFile(table=table, rows=rows, sha256=digest.hexdigest()))
    manifest = [file.model_dump() for file in files]
    await asyncio.to_thread((folder / "manifest.json").write_bytes, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    return files


async def _lines(tx: Transaction, table: str, tenant_id: UUID) -> AsyncIterator[list[bytes]]:
    columns = ", ".join(row["name"] for row in await tx.fetch(_COLUMNS, table))
    # Names come from the catalogue, and str() of a UUID holds hexadecimal digits and hyphens only.
    await tx.execute(
        f"declare rows no scroll cursor for select row_to_json(r)::text as line from"
        f" (select {columns} from \"{table}\" where tenant_id = '{UUID(str(tenant_id))}') as r"
    )
    while rows := await tx.fetch(f"fetch {_ROWS_AT_ONCE} from rows"):
        yield [row["line"].encode() + b"\n" for row in rows]
    await tx.execute("close rows")


async def _delete(tx: Transaction, tenant_id: UUID, kept: Collection[str]) -> list[TableDeletion]:
    tables = await _tables(tx, kept)
    deleted = {
        table: int((await tx.execute(f'delete from "{table}" where tenant_id = $1', tenant_id)).split()[-1])
        for table in tables
    }
    return [
        TableDeletion(
            table=table,
            deleted=deleted[table],
            remaining=await tx.fetchval(f'select count(*) from "{table}" where tenant_id = $1', tenant_id),
        )
        for table in sorted(tables)
    ]


async def _forget_events(tx: Transaction, tenant_id: UUID, kept: list[str]) -> TableDeletion:
    row: Any = await tx.fetchrow("select * from forget_tenant_events($1, $2)", tenant_id, kept)
    return TableDeletion(table=EVENTS, deleted=row["deleted"], remaining=row["remaining"])
