"""Keep what tenants' settings say of billing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from chassis.departure import departed
from chassis.messaging.subscription import Received
from chassis.persistence.database import Transaction
from dotmac_contracts.tenant import SettingsSnapshot

CATEGORY = "billing"


@dataclass(frozen=True, slots=True)
class Invoicing:
    """How a tenant's invoices are issued."""

    invoice_prefix: str
    payment_terms_days: int | None
    """Within which they are to be paid; None where the tenant's settings don't say."""


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


async def expect_settings(tx: Transaction, payment_terms_days: Mapping[UUID, int]) -> None:
    """Keep what deployments say of tenants whose settings were not told yet; what is told of these comes after it."""
    await tx.execute(
        "insert into billing_settings (tenant_id, payment_terms_days, version)"
        " select *, 0 from unnest($1::uuid[], $2::int[]) on conflict do nothing",
        list(payment_terms_days),
        list(payment_terms_days.values()),
    )


async def forget_settings(tx: Transaction, tenants: Sequence[UUID]) -> None:
    """Forget the settings of tenants that have left: of one with an instance of its own, nothing else was here."""
    await tx.execute("delete from billing_settings where tenant_id = any($1::uuid[])", tenants)


async def invoicing(tx: Transaction, tenant_id: UUID) -> Invoicing:
    """Return how a tenant's invoices are issued now."""
    row = await tx.fetchrow(
        "select w.invoice_prefix, s.payment_terms_days from workspace w left join billing_settings s using (tenant_id)"
        " where w.tenant_id = $1",
        tenant_id,
    )
    assert row is not None, "whoever bills has a workspace"
    return Invoicing(**row)
