"""Writes down and deletes the data of tenants that leave."""

from chassis import departure
from chassis.messaging.subscription import Subscription
from chassis.service import Service
from dotmac_contracts.customer import CustomerDataDeleted, CustomerDataExported
from services.customer.consumers.snapshots import SNAPSHOTS


def subscription(service: Service) -> Subscription:
    """Return what the customer service does when a tenant leaves."""
    return departure.subscription(service, CustomerDataExported, CustomerDataDeleted, snapshots=SNAPSHOTS)
