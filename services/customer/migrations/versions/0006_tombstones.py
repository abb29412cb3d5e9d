"""What a compacted topic says can be taken back, and said anew."""

from chassis.messaging.schema import let_aggregates_be_removed, let_tenants_be_listed

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    let_aggregates_be_removed()
    let_tenants_be_listed("workspace")
