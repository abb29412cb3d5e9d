"""A tenant that leaves has its data written down and deleted."""

from chassis.messaging.schema import let_tenants_leave

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    let_tenants_leave()
