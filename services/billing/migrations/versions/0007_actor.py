"""A billing run knows who asked for it, and from where."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("alter table billing_run add column actor text")
