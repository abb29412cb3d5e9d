"""A tenant can move to another place, with its rows."""

from chassis.persistence.schema import let_tenants_move

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    let_tenants_move()
