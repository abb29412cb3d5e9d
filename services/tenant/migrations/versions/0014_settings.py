"""A tenant has settings, by category; those that are secret are kept sealed."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute(
        """
        create table settings (
            tenant_id uuid not null,
            settings_id uuid not null,
            category text collate "C" not null,
            given jsonb not null default '{}',
            version int not null default 0,
            created_at timestamptz not null,
            updated_at timestamptz not null,
            primary key (tenant_id, settings_id),
            unique (tenant_id, category)
        )
        """
    )
    op.execute(
        """
        create table setting_secret (
            tenant_id uuid not null,
            settings_id uuid not null,
            name text collate "C" not null,
            sealed bytea not null,
            primary key (tenant_id, settings_id, name),
            foreign key (tenant_id, settings_id) references settings
        )
        """
    )
    # The platform orders a tenant's deployment with settings.
    for table in ("settings", "setting_secret"):
        guard(table, platform_reads=True)
