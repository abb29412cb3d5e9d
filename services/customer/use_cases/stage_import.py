"""Take in a file of customers: streamed into chunks of the database, and worked on later."""

import codecs
import contextlib
import csv
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from chassis.http.problem import Problem
from chassis.ids import new_id
from chassis.persistence.database import Transaction
from chassis.security.actors import current
from chassis.service import Service
from chassis.telemetry import traces
from services.customer.tables import require_workspace

CHUNK = 1000
_LONGEST_LINE = 64 * 1024
_MOST_ROWS = 1_000_000

Line = tuple[int, Any]
"""The line number in the file, and the row: fields, or a text that says why it can't be read."""


@dataclass(frozen=True, slots=True)
class Staged:
    """An upload that is complete, and waits to become an import."""

    import_id: UUID
    total: int
    digest: bytes
    """SHA-256 of the file."""


@contextlib.asynccontextmanager
async def staged(
    service: Service, tenant_id: UUID, stream: AsyncIterator[bytes], media_type: str
) -> AsyncIterator[Staged]:
    """Store a file's rows in chunks, a transaction each: a slow upload holds no connection and no snapshot.

    Problem 4xx when the file can't be read, or the tenant is not deployed here. What has not become an import when the
    context ends is removed.
    """
    import_id = new_id()
    async with service.db.for_tenant(tenant_id) as tx:
        await require_workspace(tx)
        await tx.execute(
            "insert into customer_import (tenant_id, import_id, status, total) values ($1, $2, 'uploading', 0)",
            tenant_id,
            import_id,
        )
    try:
        digest = hashlib.sha256()
        total = 0
        parse = _csv if media_type == "text/csv" else _ndjson
        async for chunk in _chunks(parse(_lines(_digested(stream, digest)))):
            total += len(chunk)
            if total > _MOST_ROWS:
                raise Problem(413, "too-many-rows", f"An import takes at most {_MOST_ROWS:,} rows.")
            async with service.db.for_tenant(tenant_id) as tx:
                await tx.execute(
                    "insert into import_chunk (tenant_id, import_id, first_line, rows) values ($1, $2, $3, $4)",
                    tenant_id,
                    import_id,
                    chunk[0][0],
                    chunk,
                )
        if not total:
            raise Problem(422, "empty-file", "The file has no rows.")
        yield Staged(import_id, total, digest.digest())
    finally:
        async with service.db.for_tenant(tenant_id) as tx:
            await tx.execute(
                "delete from customer_import where tenant_id = $1 and import_id = $2 and status = 'uploading'",
                tenant_id,
                import_id,
            )


async def begin_import(tx: Transaction, tenant_id: UUID, upload: Staged) -> None:
    """Make a complete upload an import, for the worker to find."""
    await tx.execute(
        "update customer_import set status = 'queued', total = $3, traceparent = $4, actor = $5"
        " where tenant_id = $1 and import_id = $2",
        tenant_id,
        upload.import_id,
        upload.total,
        traces.here(),
        current().stored(),
    )


async def _digested(stream: AsyncIterator[bytes], digest: "hashlib._Hash") -> AsyncIterator[bytes]:
    async for piece in stream:
        digest.update(piece)
        yield piece


async def _chunks(lines: AsyncIterator[Line]) -> AsyncIterator[list[Line]]:
    chunk: list[Line] = []
    async for line in lines:
        chunk.append(line)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


async def _lines(stream: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Decode and split a stream without ever holding more than a line and a piece of it."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")("strict")
    rest = ""
    try:
        async for piece in stream:
            *whole, rest = (rest + decoder.decode(piece)).split("\n")
            for line in whole:
                yield _checked(line)
            _checked(rest)
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise Problem(400, "invalid-encoding", f"The file is not UTF-8: {error.reason}.") from error
    if rest:
        yield _checked(rest)


def _checked(line: str) -> str:
    if len(line) > _LONGEST_LINE:
        raise Problem(413, "line-too-long", f"A line has more than {_LONGEST_LINE:,} characters.")
    if "\0" in line:
        raise Problem(400, "invalid-encoding", "The file has NUL characters.")
    return line.removesuffix("\r")


async def _ndjson(lines: AsyncIterator[str]) -> AsyncIterator[Line]:
    number = 0
    async for line in lines:
        number += 1
        if line.strip():
            yield number, _object(line)


def _object(line: str) -> dict[str, Any] | str:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return "it is not JSON"
    if not isinstance(value, dict):
        return "it is not a JSON object"
    # An escaped NUL is valid JSON, but nothing that PostgreSQL stores.
    return "it has a NUL character" if "\\u0000" in line else value


async def _csv(lines: AsyncIterator[str]) -> AsyncIterator[Line]:
    header: list[str] | None = None
    number = 0
    record, first = "", 1
    async for line in lines:
        number += 1
        if not record:
            first = number
        record = f"{record}\n{line}" if record else line
        if record.count('"') % 2:  # a quoted field goes on in the next line
            _checked(record)
            continue
        cells = next(_cells(record), [])
        record = ""
        if header is None:
            header = _header(cells)
        elif cells:
            yield first, _fields(header, cells)
    if record:
        raise Problem(422, "broken-csv", f"The quoted field that begins in line {first} does not end.")


def _cells(record: str) -> Iterator[list[str]]:
    try:
        yield from csv.reader(record.splitlines(keepends=True), strict=True)
    except csv.Error as error:
        raise Problem(422, "broken-csv", f"The file is not CSV: {error}.") from error


def _header(cells: list[str]) -> list[str]:
    header = [cell.strip() for cell in cells]
    if "name" not in header or len(set(header)) != len(header):
        raise Problem(422, "broken-csv", "The first line must name the columns, each once, with `name` among them.")
    return header


def _fields(header: list[str], cells: list[str]) -> dict[str, str] | str:
    if len(cells) != len(header):
        return f"it has {len(cells)} columns, the header has {len(header)}"
    return dict(zip(header, cells, strict=True))
