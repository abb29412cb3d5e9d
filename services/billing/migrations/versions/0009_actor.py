"""A billing run knows who asked for it, and from where."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("alter table billing_run add column actor text")
