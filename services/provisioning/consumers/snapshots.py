"""Tells where tenants with instances of their own are, anew."""

from typing import Any

from chassis.messaging.snapshots import Snapshots
from dotmac_contracts import topics
from dotmac_contracts.provisioning import RouteAssigned, RouteWithdrawn
from services.provisioning.instances import route_of


def _snapshot(row: Any) -> RouteAssigned | RouteWithdrawn:
    return route_of(row) if row["routed"] or row["on_hold"] else RouteWithdrawn(tenant_id=row["tenant_id"])


SNAPSHOTS = Snapshots(topics.PROVISIONING_ROUTE_SNAPSHOT, "select * from instance", _snapshot, RouteWithdrawn)
"""Provisioning tells of a route when it changes it; of all of them, only where the topic was lost."""
