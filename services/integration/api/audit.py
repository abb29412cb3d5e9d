"""The audit log, to search and to take along."""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Depends, Query
from starlette.responses import Response, StreamingResponse

from chassis.http.dependencies import CurrentService, require
from chassis.http.fields import PLAIN, Moment, in_utc
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.responses import json
from chassis.security.principals import Principal
from services.integration.api.models import AuditAction, AuditEntryView, AuditResourceType
from services.integration.use_cases.read_entries import Search, all_entries, read_entries

router = APIRouter(prefix="/api/v1", tags=["Audit log"])
Reader = Annotated[Principal, Depends(require("audit:read"))]

_CSV_COLUMNS = tuple(AuditEntryView.model_fields)


def _search(
    who: Reader,
    actor: Annotated[str | None, Query(max_length=100, pattern=PLAIN, description="Who did it, by id.")] = None,
    action: AuditAction | None = None,
    resource_type: AuditResourceType | None = None,
    resource_id: Annotated[UUID | None, Query(description="Of what was changed.")] = None,
    since: Annotated[Moment | None, Query(description="From this moment on.")] = None,
    until: Annotated[Moment | None, Query(description="Before this moment.")] = None,
    tenant_id: Annotated[
        UUID | None, Query(description="Whose log, for users of the platform; else one's own.")
    ] = None,
) -> Search:
    return Search(
        tenant_id or who.tenant_id,
        actor,
        action,
        resource_type,
        str(resource_id) if resource_id else None,
        since,
        until,
    )


Wanted = Annotated[Search, Depends(_search)]


def _moment(text: str) -> datetime:
    return in_utc(datetime.fromisoformat(text))


@router.get("/audit-entries", response_model=Page[AuditEntryView])
async def list_audit_entries(
    service: CurrentService, who: Reader, wanted: Wanted, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """List who changed what, before and after, and from where; the newest first."""
    after = decode_cursor(cursor, _moment, UUID)
    rows = await read_entries(service, who, wanted, limit + 1, after and (after[0], after[1]))
    page, next_cursor = paginate(rows, limit, lambda row: [row["occurred_at"].isoformat(), row["entry_id"]])
    items = [AuditEntryView.seen_by(who, row) for row in page]
    return json(Page[AuditEntryView](items=items, next_cursor=next_cursor))


@router.get(
    "/audit-entries/export",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "An entry a line, the oldest first, until now.",
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}},
                "text/csv": {"schema": {"type": "string"}},
            },
        }
    },
)
async def export_audit_entries(
    service: CurrentService,
    who: Reader,
    wanted: Wanted,
    format: Annotated[
        Literal["ndjson", "csv"], Query(description="A JSON object a line, or a table with a heading.")
    ] = "ndjson",
) -> Response:
    """Take the audit log along, or what of it is searched for."""
    # What comes while it is read is not waited for.
    now = service.clock.now()
    wanted = replace(wanted, until=min(wanted.until or now, now))
    written, media_type = (_as_csv, "text/csv") if format == "csv" else (_as_json, "application/x-ndjson")

    async def pieces() -> AsyncIterator[bytes]:
        if format == "csv":
            yield _csv_lines([_CSV_COLUMNS])
        async for rows in all_entries(service, who, wanted):
            yield written([AuditEntryView.seen_by(who, row) for row in rows])

    name = f'attachment; filename="audit.{format}"'
    return StreamingResponse(pieces(), 200, {"Content-Disposition": name}, media_type)


def _as_json(entries: Sequence[AuditEntryView]) -> bytes:
    return b"".join(entry.model_dump_json().encode() + b"\n" for entry in entries)


def _as_csv(entries: Sequence[AuditEntryView]) -> bytes:
    return _csv_lines([[_cell(value) for value in entry.model_dump(mode="json").values()] for entry in entries])


def _cell(value: Any) -> Any:
    return orjson.dumps(value).decode() if isinstance(value, dict) else value


def _csv_lines(lines: Sequence[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(lines)
    return text.getvalue().encode()
