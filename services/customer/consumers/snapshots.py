"""Tells of customers as they are now."""

from typing import Any

from chassis.messaging.snapshots import Snapshots
from dotmac_contracts import topics
from dotmac_contracts.customer import CustomerSnapshot, CustomerSnapshotRemoved
from services.customer.tables import COLUMNS


def _snapshot(row: Any) -> CustomerSnapshot:
    return CustomerSnapshot(**row)


SNAPSHOTS = Snapshots(topics.CUSTOMER, f"select {COLUMNS} from customer", _snapshot, CustomerSnapshotRemoved)
