"""Keep what tenants' settings say of billing."""

from collections.abc import Sequence
from uuid import UUID

from chassis.departure import departed
from chassis.messaging.subscription import Received
from chassis.persistence.database import Transaction
from dotmac_contracts.tenant import SettingsSnapshot

CATEGORY = "billing"


async def keep_settings(tx: Transaction, received: Sequence[Received[SettingsSnapshot]]) -> None:
    """Keep the last that is told of each tenant; what is told late changes nothing."""
    gone = await departed(tx)
    last = {
        item.event.tenant_id: item
        for item in received
        if item.event.category == CATEGORY and item.event.tenant_id not in gone
    }
    await tx.execute(
        "insert into billing_settings as s (tenant_id, payment_terms_days, version)"
        " select * from unnest($1::uuid[], $2::int[], $3::int[]) on conflict (tenant_id) do update"
        " set payment_terms_days = excluded.payment_terms_days, version = excluded.version"
        " where excluded.version >= s.version",
        list(last),
        [item.event.values.get("payment_terms_days") for item in last.values()],
        [item.envelope.aggregateversion for item in last.values()],
    )


async def forget_settings(tx: Transaction, tenants: Sequence[UUID]) -> None:
    """Forget the settings of tenants that have left: of one with an instance of its own, nothing else was here."""
    await tx.execute("delete from billing_settings where tenant_id = any($1::uuid[])", tenants)


async def payment_terms_days(tx: Transaction, tenant_id: UUID) -> int | None:
    """Return within how many days a tenant's invoices are to be paid; None where its settings don't say."""
    days: int | None = await tx.fetchval(
        "select payment_terms_days from billing_settings where tenant_id = $1", tenant_id
    )
    return days
