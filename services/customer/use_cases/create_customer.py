"""Create a customer."""

from typing import Any
from uuid import UUID

import asyncpg

from chassis.http.problem import Conflict
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.customer import CustomerCreated
from services.customer import metrics
from services.customer.tables import insert_customers, lock_customer, require_workspace
from services.customer.use_cases.count_customers import count


async def create_customer(tx: Transaction, service: Service, tenant_id: UUID, fields: dict[str, Any]) -> Any:
    """Insert a customer and tell of it.

    Problem 409 when its external reference is taken, the quota is used up, or the tenant is not deployed here.
    """
    await require_workspace(tx)
    told = await count(tx, tenant_id, 1) if fields["status"] == "active" else []
    customer_id = new_id()
    try:
        await insert_customers(tx, tenant_id, [(customer_id, 1, fields)])
    except asyncpg.UniqueViolationError:
        reference = fields["external_reference"]
        raise Conflict("reference-taken", f"There is a customer with the reference {reference!r} already.") from None
    metrics.created(tx, fields["status"])
    event = CustomerCreated(customer_id=customer_id, tenant_id=tenant_id, **fields)
    await publish(tx, [Outgoing(event, 1), *told], source=service.source, clock=service.clock)
    return await lock_customer(tx, tenant_id, customer_id)
