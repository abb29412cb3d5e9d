"""Deployments wait in a queue, are leased by who works on them, and have a log."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute(
        "alter table deployment add column lease uuid, add column leased_until timestamptz,"
        " add column queued_at timestamptz not null default now(), add column started_at timestamptz,"
        " add column log_position int not null default 0"
    )
    op.execute("create index deployment_queue on deployment (target, queued_at) where status = 'queued'")
    op.execute(
        "create index deployment_under_way on deployment (target, status)"
        " where status in ('waiting', 'running', 'compensating')"
    )
    op.execute(
        "create index deployment_history on deployment (target, operation, updated_at) where status = 'succeeded'"
    )
    op.execute(
        """
        create table deployment_log (
            tenant_id uuid not null,
            deployment_id uuid not null,
            position int not null,
            made_at timestamptz not null,
            step text,
            status text not null,
            message text,
            primary key (tenant_id, deployment_id, position),
            foreign key (tenant_id, deployment_id) references deployment on delete cascade
        )
        """
    )
    guard("deployment_log", platform_reads=True)
