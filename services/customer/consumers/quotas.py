"""Keeps how many customers tenants' plans allow."""

from collections.abc import Sequence

from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.tenant import TenantSnapshot, TenantSnapshotRemoved
from services.customer.use_cases.count_customers import forget_quotas, keep_quotas


def subscription(service: Service) -> Subscription:
    """Return what the customer service does with tenants as they are now."""

    async def keep(tx: Transaction, received: Sequence[Received[TenantSnapshot]]) -> None:
        await keep_quotas(tx, service, received)

    async def forget(tx: Transaction, received: Sequence[Received[TenantSnapshotRemoved]]) -> None:
        await forget_quotas(tx, [item.event.tenant_id for item in received])

    return Subscription(
        "customer-quotas", [topics.TENANT_SNAPSHOT], {TenantSnapshot: keep, TenantSnapshotRemoved: forget}
    )
