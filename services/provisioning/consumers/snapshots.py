"""Tells where tenants with instances of their own are, anew."""

from chassis.messaging.snapshots import Snapshots
from dotmac_contracts import topics
from dotmac_contracts.provisioning import RouteWithdrawn
from services.provisioning.instances import route_of

SNAPSHOTS = Snapshots(topics.PROVISIONING_ROUTE_SNAPSHOT, "select * from instance", route_of, RouteWithdrawn)
"""Provisioning tells of a route when it changes it; of all of them, only where the topic was lost."""
