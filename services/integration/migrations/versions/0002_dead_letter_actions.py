"""Dead letters are repaired through the API as well, and who did it is kept."""

from chassis.messaging.schema import let_administrators_repair

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    let_administrators_repair()
