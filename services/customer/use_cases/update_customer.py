"""Change a customer, or end it."""

from typing import Any
from uuid import UUID

import asyncpg
from starlette.requests import Request

from chassis.http.preconditions import require_match
from chassis.http.problem import Conflict, NotFound
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.customer import CustomerTerminated, CustomerUpdated
from services.customer import metrics
from services.customer.domain.customer import FIELDS, clean
from services.customer.tables import lock_customer, update_customers
from services.customer.use_cases.count_customers import count


async def update_customer(
    tx: Transaction, service: Service, request: Request, tenant_id: UUID, customer_id: UUID, changes: dict[str, Any]
) -> Any:
    """Apply the changes to the version that the caller read."""
    row = await lock_customer(tx, tenant_id, customer_id)
    if row is None:
        raise NotFound("customer", customer_id)
    require_match(request, row["version"])
    if row["status"] == "terminated":
        raise Conflict("wrong-state", "The customer is terminated and can't be changed.")
    before = {name: row[name] for name in FIELDS}
    fields = clean({**before, **changes})
    if fields == before:
        return row
    version = row["version"] + 1
    try:
        await update_customers(tx, tenant_id, [(customer_id, version, fields)])
    except asyncpg.UniqueViolationError:
        raise Conflict("reference-taken", "Another customer has this external reference.") from None
    event = CustomerUpdated(customer_id=customer_id, tenant_id=tenant_id, **fields)
    await publish(tx, [Outgoing(event, version)], source=service.source, clock=service.clock)
    return await lock_customer(tx, tenant_id, customer_id)


async def terminate_customer(
    tx: Transaction, service: Service, tenant_id: UUID, customer_id: UUID, reason: str | None
) -> Any:
    """End a customer; Problem 409 for one that is ended already."""
    row = await lock_customer(tx, tenant_id, customer_id)
    if row is None:
        raise NotFound("customer", customer_id)
    if row["status"] == "terminated":
        raise Conflict("wrong-state", "The customer is terminated already.")
    version = row["version"] + 1
    fields = {**{name: row[name] for name in FIELDS}, "status": "terminated"}
    await update_customers(tx, tenant_id, [(customer_id, version, fields)])
    told = await count(tx, tenant_id, -1)
    metrics.terminated(tx)
    event = CustomerTerminated(
        customer_id=customer_id, tenant_id=tenant_id, terminated_at=service.clock.now(), reason=reason
    )
    await publish(tx, [Outgoing(event, version), *told], source=service.source, clock=service.clock)
    return await lock_customer(tx, tenant_id, customer_id)
