"""Instances of their own can be at other targets, and elsewhere than at this machine's loopback address."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # What an instance is known by, in `pids`, may be text: a container's id.
    op.execute("alter table instance add target text not null default 'process', add hosts jsonb not null default '{}'")
