"""An order says where to."""

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute("alter table deployment_order add column target text not null default 'pooled'")
