"""Every transition of a tenant is kept, and every operation that is ordered on it."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute(
        """
        create table tenant_transition (
            tenant_id uuid not null,
            version int not null,
            from_status text,
            to_status text not null,
            deployment_id uuid,
            reason text,
            requested_by text,
            made_at timestamptz not null,
            primary key (tenant_id, version)
        )
        """
    )
    # The aggregate that DeploymentRequested, and what follows it on its topic, tell of.
    op.execute(
        """
        create table deployment_order (
            tenant_id uuid not null,
            deployment_id uuid not null,
            operation text not null,
            reason text,
            grace_seconds int not null,
            requested_by text not null,
            version int not null,
            requested_at timestamptz not null,
            ended_at timestamptz,
            primary key (tenant_id, deployment_id)
        )
        """
    )
    # One at a time: whoever orders a second one meets this at the latest.
    op.execute("create unique index deployment_order_open on deployment_order (tenant_id) where ended_at is null")
    for table in ("tenant_transition", "deployment_order"):
        guard(table, platform_reads=True)
