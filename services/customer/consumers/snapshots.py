"""Tells of customers as they are now."""

from typing import Any

from chassis.messaging import snapshots
from chassis.messaging.subscription import Subscription
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.customer import CustomerSnapshot
from services.customer.tables import COLUMNS

_PRESENT = (
    f"select {COLUMNS} from customer where (tenant_id, customer_id) in (select * from unnest($1::uuid[], $2::uuid[]))"
)


def subscription(service: Service) -> Subscription:
    """Return what publishes customers anew when one changed."""
    return snapshots.subscription(service, topics.CUSTOMER, _PRESENT, _snapshot)


def _snapshot(row: Any) -> CustomerSnapshot:
    return CustomerSnapshot(**row)
