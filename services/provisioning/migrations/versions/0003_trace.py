"""A deployment knows the event that moved it last, which causes what it does next by itself."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("alter table deployment add column cause jsonb")
