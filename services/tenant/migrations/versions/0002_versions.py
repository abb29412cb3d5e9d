"""Users are versioned, as every aggregate that events tell of."""

from alembic import op

from chassis.persistence.schema import expire_idempotency_keys

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("alter table app_user add column version int not null default 1")
    expire_idempotency_keys()
