"""Writes down and deletes the data of tenants that leave."""

from chassis import departure
from chassis.messaging.subscription import Subscription
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.tenant import TenantDataDeleted, TenantDataExported
from services.tenant.consumers.snapshots import SETTINGS_SNAPSHOTS


def subscription(service: Service) -> Subscription:
    """Return what the tenant service does when a tenant leaves."""
    return departure.subscription(
        service,
        TenantDataExported,
        TenantDataDeleted,
        snapshots=SETTINGS_SNAPSHOTS,  # a tenant itself is taken back when it is deprovisioned
        # What the platform itself knows of it: that it was there, and what was done with it.
        kept_tables=("tenant", "tenant_transition", "deployment_order"),
        kept_topics=(topics.TENANT, topics.TENANT_SNAPSHOT, topics.TENANT_DEPLOYMENT),
    )
