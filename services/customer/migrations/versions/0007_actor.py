"""An import knows who asked for it, and from where."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("alter table customer_import add column actor text")
