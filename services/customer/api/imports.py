"""Imports of customers."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.idempotency import idempotent
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.problem import NotFound, Problem
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from services.customer.api.models import ImportView, RejectionView
from services.customer.use_cases.stage_import import begin_import, staged

router = APIRouter(prefix="/api/v1/customers/imports", tags=["Customer imports"])
Reader = Annotated[Principal, Depends(require("customers:read"))]
Writer = Annotated[Principal, Depends(require("customers:write"))]
MEDIA_TYPES = ("text/csv", "application/x-ndjson")
_COLUMNS = "import_id, status, total, processed, created, updated, unchanged, rejected, created_at, finished_at"
_BODY = {"requestBody": {"required": True, "content": {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES}}}


@router.post("", status_code=202, response_model=ImportView, openapi_extra=_BODY)
async def import_customers(request: Request, service: CurrentService, who: Writer) -> Response:
    """Import customers from CSV or NDJSON, streamed. The same file again changes nothing."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type not in MEDIA_TYPES:
        raise Problem(415, "unsupported-media-type", f"Send {' or '.join(MEDIA_TYPES)} as Content-Type.")
    async with staged(service, who.tenant_id, request.stream(), media_type) as upload:

        async def begin(tx: Transaction) -> Response:
            await begin_import(tx, who.tenant_id, upload)
            row = await tx.fetchrow(
                f"select {_COLUMNS} from customer_import where tenant_id = $1 and import_id = $2",
                who.tenant_id,
                upload.import_id,
            )
            return json(ImportView.of(row), 202, {"Location": f"/api/v1/customers/imports/{upload.import_id}"})

        response = await idempotent(request, service, who, begin, body_digest=upload.digest)
    service.wake("imports")
    return response


@router.get("", response_model=Page[ImportView])
async def list_imports(service: CurrentService, who: Reader, limit: Limit = 50, cursor: Cursor = None) -> Response:
    """List imports, in the order in which they were sent."""
    after = decode_cursor(cursor, UUID)
    async with service.db.for_tenant(who.tenant_id) as tx:
        rows = await tx.fetch(
            f"select {_COLUMNS} from customer_import where ($1::uuid is null or import_id > $1)"
            " order by import_id limit $2",
            after[0] if after else None,
            limit + 1,
        )
    page, next_cursor = paginate(rows, limit, lambda row: [row["import_id"]])
    return json(Page[ImportView](items=[ImportView.of(row) for row in page], next_cursor=next_cursor))


@router.get("/{import_id}", response_model=ImportView)
async def get_import(service: CurrentService, who: Reader, import_id: UUID) -> Response:
    """Follow an import."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await tx.fetchrow(f"select {_COLUMNS} from customer_import where import_id = $1", import_id)
    if row is None:
        raise NotFound("import", import_id)
    return json(ImportView.of(row))


@router.get("/{import_id}/rejections", response_model=Page[RejectionView])
async def list_rejections(
    service: CurrentService, who: Reader, import_id: UUID, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """List the rows that were not imported, each with its line and the reason."""
    after = decode_cursor(cursor, int)
    async with service.db.for_tenant(who.tenant_id) as tx:
        if not await tx.fetchval("select 1 from customer_import where import_id = $1", import_id):
            raise NotFound("import", import_id)
        rows = await tx.fetch(
            'select line, reason, "row" from import_rejection where import_id = $1 and line > $2::bigint'
            " order by line limit $3",
            import_id,
            min(after[0], 2**31) if after else 0,
            limit + 1,
        )
    page, next_cursor = paginate(rows, limit, lambda row: [row["line"]])
    items = [RejectionView(line=row["line"], reason=row["reason"], row=row["row"]) for row in page]
    return json(Page[RejectionView](items=items, next_cursor=next_cursor))
