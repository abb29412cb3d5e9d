"""Keeps what tenants' settings say of billing."""

from collections.abc import Sequence

from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from dotmac_contracts import topics
from dotmac_contracts.tenant import SettingsSnapshot, SettingsSnapshotRemoved
from services.billing.use_cases.keep_settings import forget_settings, keep_settings


def subscription() -> Subscription:
    """Return what billing does with tenants' settings as they are now."""

    async def forget(tx: Transaction, received: Sequence[Received[SettingsSnapshotRemoved]]) -> None:
        await forget_settings(tx, [item.event.tenant_id for item in received])

    return Subscription(
        "billing-settings",
        [topics.TENANT_SETTINGS_SNAPSHOT],
        {SettingsSnapshot: keep_settings, SettingsSnapshotRemoved: forget},
    )
