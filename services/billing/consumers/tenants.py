"""Bills the platform's tenants."""

from collections.abc import Sequence

from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.tenant import TenantSnapshot, TenantSnapshotRemoved
from services.billing.use_cases.bill_tenants import follow_tenants, forget_tenants


def subscription(service: Service) -> Subscription:
    """Return what billing does with tenants as they are now."""

    async def follow(tx: Transaction, received: Sequence[Received[TenantSnapshot]]) -> None:
        await follow_tenants(tx, service, received)

    async def forget(tx: Transaction, received: Sequence[Received[TenantSnapshotRemoved]]) -> None:
        await forget_tenants(tx, service, received)

    return Subscription(
        "billing-tenants", [topics.TENANT_SNAPSHOT], {TenantSnapshot: follow, TenantSnapshotRemoved: forget}
    )
