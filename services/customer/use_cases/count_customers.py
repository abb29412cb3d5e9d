"""Count a tenant's active customers, against the quota of its plan.

The tenant's row of `customer_quota` is locked by whoever makes a customer, or ends one, until it has committed: the
count is exact however many do so at once. Customers that are there are locked before it, new ones are inserted after
it, so that nobody waits for one another.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from chassis.departure import departed
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.subscription import Received
from chassis.persistence.database import Transaction
from chassis.quotas import QuotaExceeded, Usage, reached
from chassis.service import Service
from dotmac_contracts.customer import CustomerQuotaThresholdReached
from dotmac_contracts.tenant import TenantSnapshot

QUOTA = "customers"


async def count(tx: Transaction, tenant_id: UUID, by: int) -> list[Outgoing]:
    """Count active customers that the transaction adds (or, below zero, takes away); return what is to be told of it.

    Problem 409 if there would be more than the plan allows.
    """
    row = await _add(tx, tenant_id, by)
    after = Usage(row["most"], row["used"])
    before = Usage(row["most"], row["used"] - by)
    if by > 0 and after.limit is not None and after.used > after.limit:
        raise QuotaExceeded(QUOTA, before)
    told = reached(CustomerQuotaThresholdReached, tenant_id, before, after, row["version"])
    if told:
        await tx.execute("update customer_quota set version = version + $2 where tenant_id = $1", tenant_id, len(told))
    return told


async def lock_usage(tx: Transaction, tenant_id: UUID) -> Usage:
    """Return how much is used, which nobody else changes before the transaction has ended."""
    row = await _add(tx, tenant_id, 0)
    return Usage(row["most"], row["used"])


async def keep_quotas(tx: Transaction, service: Service, received: Sequence[Received[TenantSnapshot]]) -> None:
    """Keep what tenants' plans allow. The customers are counted anew with it, so that no count is wrong for long."""
    gone = await departed(tx)
    last = {
        item.event.tenant_id: item
        for item in received
        if item.event.quotas is not None and item.event.tenant_id not in gone
    }
    tenants = sorted(last)
    await tx.execute("insert into customer_quota (tenant_id) select unnest($1::uuid[]) on conflict do nothing", tenants)
    rows = await tx.fetch(
        "select * from customer_quota where tenant_id = any($1::uuid[]) order by tenant_id for update", tenants
    )
    counted = await tx.fetch(
        "select tenant_id, count(*) as active from customer where tenant_id = any($1::uuid[]) and status = 'active'"
        " group by tenant_id",
        tenants,
    )
    active = {row["tenant_id"]: row["active"] for row in counted}
    kept: list[tuple[Any, ...]] = []
    outgoing: list[Outgoing] = []
    for row in rows:
        tenant_id, item = row["tenant_id"], last[row["tenant_id"]]
        # The same version may be told with other quotas, when the plan itself was changed.
        if item.envelope.aggregateversion < row["tenant_version"] or item.event.quotas is None:
            continue
        after = Usage(item.event.quotas.customers, active.get(tenant_id, 0))
        before = Usage(row["most"], row["used"])
        told = reached(CustomerQuotaThresholdReached, tenant_id, before, after, row["version"], item.envelope)
        outgoing += told
        kept.append((tenant_id, *after, row["version"] + len(told), item.envelope.aggregateversion))
    await tx.execute(
        "update customer_quota q set most = x.most, used = x.used, version = x.version, tenant_version = x.heard"
        " from unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[])"
        " as x (tenant_id, most, used, version, heard) where q.tenant_id = x.tenant_id",
        *([list(column) for column in zip(*kept, strict=True)] or [[]] * 5),
    )
    await publish(tx, outgoing, source=service.source, clock=service.clock)


async def forget_quotas(tx: Transaction, tenants: Sequence[UUID]) -> None:
    """Forget the plans of tenants that have left: of one with an instance of its own, nothing else was here."""
    await tx.execute("delete from customer_quota where tenant_id = any($1::uuid[])", tenants)


async def _add(tx: Transaction, tenant_id: UUID, by: int) -> Any:
    statement = "update customer_quota set used = used + $2 where tenant_id = $1 returning most, used, version"
    row = await tx.fetchrow(statement, tenant_id, by)
    if row is None:  # of a tenant that was there before its customers were counted
        await tx.execute(
            "insert into customer_quota (tenant_id, used) select $1, count(*) from customer"
            " where tenant_id = $1 and status = 'active' on conflict do nothing",
            tenant_id,
        )
        row = await tx.fetchrow(statement, tenant_id, by)
    return row
