"""Opens a billing account for each customer, and closes it when the customer leaves."""

from collections.abc import Sequence
from typing import Any

from chassis.departure import departed
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.subscription import Permanent, Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.billing import (
    BillingAccountClosed,
    BillingAccountOpened,
    BillingAccountUpdated,
)
from dotmac_contracts.customer import CustomerCreated, CustomerTerminated, CustomerUpdated
from services.billing.use_cases.close_accounts import close_accounts


def subscription(service: Service) -> Subscription:
    """Return what billing does with the customers' events."""

    async def created(tx: Transaction, received: Sequence[Received[CustomerCreated]]) -> None:
        # Held, so that who deletes a tenant's data waits, and deletes what is opened here when it proves the deletion.
        rows = await tx.fetch("select tenant_id, currency from workspace where removed_at is null for key share")
        currencies = {row["tenant_id"]: row["currency"] for row in rows}
        missing = {item.event.tenant_id for item in received} - currencies.keys()
        if missing:
            # One that has left had customers on their way still: nothing of them is to be kept, nor as a dead letter.
            missing -= await departed(tx)
            if missing:
                raise Permanent(f"no workspace was prepared for {', '.join(map(str, missing))}")
            received = [item for item in received if item.event.tenant_id in currencies]
        rows = await tx.fetch(
            "insert into billing_account"
            " (tenant_id, account_id, customer_id, external_reference, currency, status, version)"
            # One that is opened and closed at once has been through both versions.
            " select *, case status when 'open' then 1 else 2 end from unnest($1::uuid[], $2::uuid[], $3::uuid[],"
            " $4::text[], $5::text[], $6::text[]) as x (t, a, c, reference, currency, status)"
            " on conflict do nothing"
            " returning tenant_id, account_id, customer_id, external_reference, currency, status",
            [item.event.tenant_id for item in received],
            [new_id() for _ in received],
            [item.event.customer_id for item in received],
            [item.event.external_reference for item in received],
            [currencies[item.event.tenant_id] for item in received],
            ["open" if item.event.status == "active" else "closed" for item in received],
        )
        causes = {item.event.customer_id: item.envelope for item in received}
        outgoing = []
        for row in rows:
            ids = {name: row[name] for name in ("account_id", "tenant_id", "customer_id")}
            cause = causes[row["customer_id"]]
            opened = {name: row[name] for name in ("currency", "external_reference")}
            outgoing.append(Outgoing(BillingAccountOpened(**ids, **opened), 1, cause))
            if row["status"] == "closed":
                outgoing.append(Outgoing(BillingAccountClosed(**ids), 2, cause))
        await publish(tx, outgoing, source=service.source, clock=service.clock)

    async def updated(tx: Transaction, received: Sequence[Received[CustomerUpdated]]) -> None:
        # The last state of each customer in the batch.
        last = {item.event.customer_id: item for item in received}
        rows = await tx.fetch(
            "update billing_account a set external_reference = x.reference, version = version + 1, updated_at = now()"
            " from unnest($1::uuid[], $2::uuid[], $3::text[]) as x (tenant_id, customer_id, reference)"
            " where a.tenant_id = x.tenant_id and a.customer_id = x.customer_id"
            " and a.external_reference is distinct from x.reference"
            " returning a.tenant_id, a.account_id, a.customer_id, a.external_reference, a.version",
            [item.event.tenant_id for item in last.values()],
            list(last),
            [item.event.external_reference for item in last.values()],
        )
        outgoing = [
            Outgoing(BillingAccountUpdated(**dict(row)), row["version"], last[row["customer_id"]].envelope)
            for row in rows
        ]
        await publish(tx, outgoing, source=service.source, clock=service.clock)
        await close(tx, [item for item in received if item.event.status == "terminated"])

    async def close(tx: Transaction, received: Sequence[Received[Any]]) -> None:
        causes = {(item.event.tenant_id, item.event.customer_id): item.envelope for item in received}
        await close_accounts(tx, service, causes)

    return Subscription(
        "billing-customers",
        [topics.CUSTOMER],
        {CustomerCreated: created, CustomerUpdated: updated, CustomerTerminated: close},
    )
