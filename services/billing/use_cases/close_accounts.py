"""Close the accounts of customers that are served no longer, and end their subscriptions."""

from collections.abc import Mapping
from uuid import UUID

from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.billing import BillingAccountClosed, SubscriptionCancelled
from dotmac_contracts.envelope import Envelope


async def close_accounts(tx: Transaction, service: Service, causes: Mapping[tuple[UUID, UUID], Envelope]) -> None:
    """Close what is open of these customers today.

    causes: by tenant and customer, the event that said so.
    """
    accounts = await tx.fetch(
        "update billing_account a set status = 'closed', version = version + 1, updated_at = now()"
        " from unnest($1::uuid[], $2::uuid[]) as x (tenant_id, customer_id)"
        " where a.tenant_id = x.tenant_id and a.customer_id = x.customer_id and a.status = 'open'"
        " returning a.tenant_id, a.account_id, a.customer_id, a.version",
        [tenant_id for tenant_id, _ in causes],
        [customer_id for _, customer_id in causes],
    )
    ended = await tx.fetch(
        "update subscription s set cancelled_on = greatest($3, s.started_on), version = s.version + 1,"
        " updated_at = now() from unnest($1::uuid[], $2::uuid[]) as x (tenant_id, account_id)"
        " where s.tenant_id = x.tenant_id and s.account_id = x.account_id"
        # One that is to end later, for another plan follows it, ends today as well.
        " and (s.cancelled_on is null or s.cancelled_on > greatest($3, s.started_on))"
        " returning s.tenant_id, s.subscription_id, s.account_id, s.cancelled_on, s.version",
        [row["tenant_id"] for row in accounts],
        [row["account_id"] for row in accounts],
        service.clock.now().date(),
    )
    cause_of = {row["account_id"]: causes[row["tenant_id"], row["customer_id"]] for row in accounts}
    outgoing = [
        Outgoing(BillingAccountClosed(**dict(row)), row["version"], cause_of[row["account_id"]]) for row in accounts
    ]
    outgoing += [
        Outgoing(SubscriptionCancelled(**dict(row)), row["version"], cause_of[row["account_id"]]) for row in ended
    ]
    await publish(tx, outgoing, source=service.source, clock=service.clock)
