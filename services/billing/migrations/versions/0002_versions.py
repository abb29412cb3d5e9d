"""A workspace keeps its version when it is removed."""

from alembic import op

from chassis.persistence.schema import expire_idempotency_keys

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("alter table workspace add column version int not null default 1, add column removed_at timestamptz")
    expire_idempotency_keys()
