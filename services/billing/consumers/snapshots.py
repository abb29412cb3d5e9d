"""Tells of subscriptions as they are now."""

from typing import Any

from chassis.messaging.snapshots import Snapshots
from dotmac_contracts import topics
from dotmac_contracts.billing import SubscriptionSnapshot, SubscriptionSnapshotRemoved
from services.billing.tables import prices


def _snapshot(row: Any) -> SubscriptionSnapshot:
    return SubscriptionSnapshot(**row, **prices(row))


SNAPSHOTS = Snapshots(
    topics.BILLING_SUBSCRIPTION,
    "select s.*, a.customer_id from subscription s join billing_account a using (tenant_id, account_id)",
    _snapshot,
    SubscriptionSnapshotRemoved,
)
