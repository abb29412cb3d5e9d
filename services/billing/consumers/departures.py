"""Writes down and deletes the data of tenants that leave."""

from chassis import departure
from chassis.messaging.subscription import Subscription
from chassis.service import Service
from dotmac_contracts.billing import BillingDataDeleted, BillingDataExported
from services.billing.consumers.snapshots import SNAPSHOTS


def subscription(service: Service) -> Subscription:
    """Return what the billing service does when a tenant leaves."""
    return departure.subscription(
        service,
        BillingDataExported,
        BillingDataDeleted,
        snapshots=SNAPSHOTS,
        kept_tables=("active_customers",),  # the platform has yet to bill them
    )
