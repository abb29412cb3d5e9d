"""Keeps how many customers tenants' plans allow."""

from collections.abc import Sequence

from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.tenant import TenantSnapshot
from services.customer.use_cases.count_customers import keep_quotas


def subscription(service: Service) -> Subscription:
    """Return what the customer service does with tenants as they are now."""

    async def keep(tx: Transaction, received: Sequence[Received[TenantSnapshot]]) -> None:
        await keep_quotas(tx, service, received)

    return Subscription("customer-quotas", [topics.TENANT_SNAPSHOT], {TenantSnapshot: keep})
