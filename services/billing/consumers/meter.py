"""Counts active customers of tenants with an instance of their own, for what the platform bills them."""

from collections.abc import Sequence

from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from dotmac_contracts import topics
from dotmac_contracts.billing import BillingAccountClosed, BillingAccountOpened

# As a trigger does where the accounts are in this database.
_COUNT = """
insert into active_customers as m (tenant_id, day, slot, change)
select tenant_id, (now() at time zone 'utc')::date, pg_backend_pid() % 8, $2::int * count(*)
from unnest($1::uuid[]) as x (tenant_id) group by tenant_id order by tenant_id
on conflict (tenant_id, day, slot) do update set change = m.change + excluded.change
"""


def subscription() -> Subscription:
    """Return what billing does with accounts that other instances of it open and close."""

    async def opened(tx: Transaction, received: Sequence[Received[BillingAccountOpened]]) -> None:
        await tx.execute(_COUNT, [item.event.tenant_id for item in received], 1)

    async def closed(tx: Transaction, received: Sequence[Received[BillingAccountClosed]]) -> None:
        await tx.execute(_COUNT, [item.event.tenant_id for item in received], -1)

    return Subscription(
        "billing-meter",
        [topics.BILLING_ACCOUNT],
        {BillingAccountOpened: opened, BillingAccountClosed: closed},
        of_instances=True,
    )
