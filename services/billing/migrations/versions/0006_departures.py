"""A tenant that leaves has its data written down and deleted."""

from chassis.messaging.schema import let_tenants_leave

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    let_tenants_leave()
