"""Deployments."""

from alembic import op

from chassis.messaging.schema import create_messaging_tables
from chassis.persistence.schema import create_idempotency_table, guard

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        create table deployment (
            tenant_id uuid not null,
            deployment_id uuid not null,
            target text not null,
            status text not null,
            request jsonb not null,
            steps jsonb not null,
            reason text,
            placement text,
            next_check_at timestamptz,
            version int not null,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            primary key (tenant_id, deployment_id)
        )
        """
    )
    op.execute("create index deployment_due on deployment (next_check_at) where next_check_at is not null")
    guard("deployment", platform_reads=True, worker_reads=True)
    create_idempotency_table()
    create_messaging_tables()
