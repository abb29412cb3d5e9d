"""Tells of tenants as they are now."""

from typing import Any

from chassis.messaging import snapshots
from chassis.messaging.subscription import Subscription
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.tenant import TenantSnapshot
from services.tenant.tables import TENANT_COLUMNS

_PRESENT = f"select {TENANT_COLUMNS} from tenant where tenant_id = any($1::uuid[]) and tenant_id = any($2::uuid[])"


def subscription(service: Service) -> Subscription:
    """Return what publishes tenants anew when one changed."""
    return snapshots.subscription(service, topics.TENANT, _PRESENT, _snapshot)


def _snapshot(row: Any) -> TenantSnapshot:
    return TenantSnapshot(**row)
