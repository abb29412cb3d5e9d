"""A workspace keeps its version when it is removed; an upload is staged before it is an import."""

from alembic import op

from chassis.persistence.schema import expire_idempotency_keys

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("alter table workspace add column version int not null default 1, add column removed_at timestamptz")
    op.execute("drop index customer_import_open")
    op.execute(
        "create index customer_import_open on customer_import (created_at)"
        " where finished_at is null and status <> 'uploading'"
    )
    op.execute("create index customer_import_abandoned on customer_import (created_at) where status = 'uploading'")
    expire_idempotency_keys()
