"""An import knows the trace of the request that asked for it."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("alter table customer_import add column traceparent text")
