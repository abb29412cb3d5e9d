"""Tells of tenants and their settings as they are now. Of one that has left, only the platform keeps a record."""

from dataclasses import asdict
from typing import Any

from chassis.messaging.snapshots import Snapshots
from dotmac_contracts import topics
from dotmac_contracts.quota import Quotas
from dotmac_contracts.tenant import (
    SettingsSnapshot,
    SettingsSnapshotRemoved,
    TenantSnapshot,
    TenantSnapshotRemoved,
)
from services.tenant.domain.plans import quotas_of
from services.tenant.domain.tenant import Status
from services.tenant.tables import TENANT_COLUMNS


def _snapshot(row: Any) -> TenantSnapshot | TenantSnapshotRemoved:
    if row["status"] == Status.DEPROVISIONED:
        return TenantSnapshotRemoved(tenant_id=row["tenant_id"])
    return TenantSnapshot(**row, quotas=Quotas(**asdict(quotas_of(row["plan"]))))


def _settings(row: Any) -> SettingsSnapshot:
    return SettingsSnapshot(**row, values=row["given"])


SNAPSHOTS = Snapshots(topics.TENANT, f"select {TENANT_COLUMNS} from tenant", _snapshot, TenantSnapshotRemoved)
SETTINGS_SNAPSHOTS = Snapshots(
    topics.TENANT_SETTINGS,
    # One without a version was never changed, and never told of.
    "select * from settings where version > 0",
    _settings,
    SettingsSnapshotRemoved,
    "settings-snapshots",
)
