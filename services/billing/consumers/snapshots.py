"""Tells of subscriptions as they are now."""

from typing import Any

from chassis.messaging.snapshots import Snapshots
from dotmac_contracts import topics
from dotmac_contracts.billing import SubscriptionSnapshot, SubscriptionSnapshotRemoved
from dotmac_contracts.money import Money


def _snapshot(row: Any) -> SubscriptionSnapshot:
    minor, currency = row["unit_price_minor"], row["currency"]
    return SubscriptionSnapshot(
        **row,
        price=Money(amount_minor=row["price_minor"], currency=currency),
        unit_price=None if minor is None else Money(amount_minor=minor, currency=currency),
    )


SNAPSHOTS = Snapshots(
    topics.BILLING_SUBSCRIPTION,
    "select s.*, a.customer_id from subscription s join billing_account a using (tenant_id, account_id)",
    _snapshot,
    SubscriptionSnapshotRemoved,
)
