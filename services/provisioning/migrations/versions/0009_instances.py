"""Tenants can have instances of their own: which are wanted, which run, and where their requests go."""

from alembic import op

from chassis.messaging.schema import let_tenants_be_listed
from chassis.persistence.schema import guard

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute(
        """
        create table instance (
            tenant_id uuid primary key,
            deployment_id uuid not null,
            wanted boolean not null,
            ports jsonb not null default '{}',
            pids jsonb not null default '{}',
            routed boolean not null default false,
            version int not null default 0
        )
        """
    )
    guard("instance", worker_reads=True)
    let_tenants_be_listed("instance")
    for table in ("outbox", "journal"):  # a route is withdrawn by a tombstone
        op.execute(f"alter table {table} alter value drop not null")
