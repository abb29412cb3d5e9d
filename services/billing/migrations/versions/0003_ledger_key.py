"""A ledger entry is known by its source and account: one index instead of two."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute("drop index ledger_source")
    op.execute("alter table ledger_entry drop column entry_id, add primary key (tenant_id, source_id, account)")
