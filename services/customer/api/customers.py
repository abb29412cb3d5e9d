"""Customers."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.idempotency import idempotent
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.preconditions import etag
from chassis.http.problem import NotFound, Problem
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from services.customer.api.models import (
    CustomerChange,
    CustomerData,
    CustomerQuota,
    CustomerView,
    Summary,
    Termination,
    WorkspaceView,
)
from services.customer.domain.customer import Invalid, clean
from services.customer.tables import COLUMNS
from services.customer.use_cases.create_customer import create_customer
from services.customer.use_cases.update_customer import terminate_customer, update_customer

router = APIRouter(prefix="/api/v1", tags=["Customers"])
Reader = Annotated[Principal, Depends(require("customers:read"))]
Writer = Annotated[Principal, Depends(require("customers:write"))]
Filter = Annotated[str | None, Query(max_length=254, pattern=r"^[^\x00]*$")]


def _invalid(error: Invalid) -> Problem:
    return Problem(422, "invalid-customer", f"It can't be a customer: {error}.")


@router.post("/customers", status_code=201, response_model=CustomerView)
async def add_customer(request: Request, service: CurrentService, who: Writer, body: CustomerData) -> Response:
    """Create a customer."""

    async def create(tx: Transaction) -> Response:
        try:
            row = await create_customer(tx, service, who.tenant_id, clean(body.model_dump()))
        except Invalid as error:
            raise _invalid(error) from error
        location = f"/api/v1/customers/{row['customer_id']}"
        return json(CustomerView.of(row), 201, {"Location": location, "ETag": etag(row["version"])})

    return await idempotent(request, service, who, create)


@router.get("/customers", response_model=Page[CustomerView])
async def list_customers(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: Annotated[str | None, Query(pattern="^(active|terminated)$")] = None,
    external_reference: Filter = None,
    email: Filter = None,
    city: Filter = None,
    q: Annotated[Filter, Query(description="How the name begins.")] = None,
) -> Response:
    """List customers in the order in which they were created, filtered and searched."""
    after = decode_cursor(cursor, UUID)
    prefix = q.lower() if q else None
    async with service.db.for_tenant(who.tenant_id) as tx:
        rows = await tx.fetch(
            f"select {COLUMNS} from customer where ($1::uuid is null or customer_id > $1)"
            " and ($2::text is null or status = $2) and ($3::text is null or external_reference = $3)"
            " and ($4::text is null or email_lc = $4) and ($5::text is null or city_lc = $5)"
            " and ($6::text is null or (name_lc >= $6 and name_lc < $7)) order by customer_id limit $8",
            after[0] if after else None,
            status,
            external_reference,
            email.lower() if email else None,
            city.lower() if city else None,
            prefix,
            f"{prefix}\U0010ffff" if prefix else None,
            limit + 1,
        )
    page, next_cursor = paginate(rows, limit, lambda row: [row["customer_id"]])
    items = [CustomerView.of(row) for row in page]
    return json(Page[CustomerView].model_construct(items=items, next_cursor=next_cursor))


@router.get("/customers/summary", response_model=Summary)
async def summarize_customers(service: CurrentService, who: Reader) -> Response:
    """Count customers by status."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await tx.fetchrow(
            "select count(*) as total, count(*) filter (where status = 'active') as active from customer"
        )
    assert row is not None
    return json(Summary(total=row["total"], active=row["active"], terminated=row["total"] - row["active"]))


@router.get("/customers/{customer_id}", response_model=CustomerView)
async def get_customer(service: CurrentService, who: Reader, customer_id: UUID) -> Response:
    """Read a customer."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await tx.fetchrow(
            f"select {COLUMNS} from customer where tenant_id = $1 and customer_id = $2", who.tenant_id, customer_id
        )
    if row is None:
        raise NotFound("customer", customer_id)
    return json(CustomerView.of(row), headers={"ETag": etag(row["version"])})


@router.patch("/customers/{customer_id}", response_model=CustomerView)
async def change_customer(
    request: Request, service: CurrentService, who: Writer, customer_id: UUID, body: CustomerChange
) -> Response:
    """Change a customer; send its ETag as If-Match."""
    changes = body.model_dump(exclude_unset=True)
    try:
        async with service.db.for_tenant(who.tenant_id) as tx:
            row = await update_customer(tx, service, request, who.tenant_id, customer_id, changes)
    except Invalid as error:
        raise _invalid(error) from error
    return json(CustomerView.of(row), headers={"ETag": etag(row["version"])})


@router.post("/customers/{customer_id}/terminate", response_model=CustomerView)
async def terminate(
    request: Request, service: CurrentService, who: Writer, customer_id: UUID, body: Termination
) -> Response:
    """End a customer."""

    async def end(tx: Transaction) -> Response:
        row = await terminate_customer(tx, service, who.tenant_id, customer_id, body.reason)
        return json(CustomerView.of(row), headers={"ETag": etag(row["version"])})

    return await idempotent(request, service, who, end)


@router.get("/workspace", response_model=WorkspaceView)
async def get_workspace(service: CurrentService, who: Reader) -> Response:
    """Read the tenant's workspace."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await tx.fetchrow(
            "select w.*, q.most, q.used from workspace w left join customer_quota q using (tenant_id)"
            " where removed_at is null"
        )
    if row is None:
        raise NotFound("workspace of", who.tenant_id)
    quota = CustomerQuota(limit=row["most"], used=row["used"]) if row["used"] is not None else None
    return json(WorkspaceView(**row, customer_quota=quota))
