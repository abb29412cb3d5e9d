"""A deployment knows who moved it last, and from where."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("alter table deployment add column actor text")
