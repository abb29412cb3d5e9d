"""Tells of subscriptions as they are now."""

from typing import Any

from chassis.messaging import snapshots
from chassis.messaging.subscription import Subscription
from chassis.service import Service
from dotmac_contracts import topics
from dotmac_contracts.billing import SubscriptionSnapshot
from dotmac_contracts.money import Money

_PRESENT = (
    "select s.*, a.customer_id from subscription s join billing_account a using (tenant_id, account_id)"
    " where (s.tenant_id, s.subscription_id) in (select * from unnest($1::uuid[], $2::uuid[]))"
)


def subscription(service: Service) -> Subscription:
    """Return what publishes subscriptions anew when one changed."""
    return snapshots.subscription(service, topics.BILLING_SUBSCRIPTION, _PRESENT, _snapshot)


def _snapshot(row: Any) -> SubscriptionSnapshot:
    return SubscriptionSnapshot(**row, price=Money(amount_minor=row["price_minor"], currency=row["currency"]))
