"""While a tenant moves, its requests are on hold."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute("alter table instance add column on_hold boolean not null default false")
