"""A deployment that failed waits until what it had begun is undone."""

from alembic import op

from chassis.persistence.schema import expire_idempotency_keys

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("alter table deployment add column failed_step text")
    expire_idempotency_keys()
