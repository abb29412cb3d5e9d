"""Drift that was found is kept: what is wrong with which tenant, since when, and what was done about it."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute(
        """
        create table drift (
            tenant_id uuid not null,
            drift_id uuid not null,
            kind text not null,
            detail text not null,
            remedy text not null,
            deployment_id uuid,
            attempts int not null default 0,
            attempted_at timestamptz,
            found_at timestamptz not null,
            resolved_at timestamptz,
            version int not null,
            primary key (tenant_id, drift_id)
        )
        """
    )
    op.execute("create unique index drift_open on drift (tenant_id, kind) where resolved_at is null")
    guard("drift", platform_reads=True, worker_reads=True)
