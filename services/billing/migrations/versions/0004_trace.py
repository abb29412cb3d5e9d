"""A billing run knows the trace of the request that asked for it."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("alter table billing_run add column traceparent text")
