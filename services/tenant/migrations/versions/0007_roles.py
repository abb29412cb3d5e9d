"""Users can be disabled, and a tenant has roles of its own."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("alter table app_user add column disabled_at timestamptz")
    op.execute(
        """
        create table role (
            tenant_id uuid not null,
            role_id uuid not null,
            name text collate "C" not null,
            description text,
            scopes text[] not null,
            version int not null,
            created_at timestamptz not null,
            updated_at timestamptz not null,
            primary key (tenant_id, role_id),
            unique (tenant_id, name)
        )
        """
    )
    # The platform asks for a tenant's roles when one of its users signs in.
    guard("role", platform_reads=True)
