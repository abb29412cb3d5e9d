"""An order can name a template, and say of its parameters what is to be otherwise."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    # The platform's own rows: their tenant is always zero.
    op.execute(
        """
        create table deployment_template (
            tenant_id uuid not null,
            template_id uuid not null,
            name text collate "C" not null,
            description text,
            target text not null,
            plan text,
            parameters jsonb not null,
            version int not null,
            created_at timestamptz not null,
            updated_at timestamptz not null,
            primary key (tenant_id, template_id),
            unique (tenant_id, name)
        )
        """
    )
    guard("deployment_template")
    op.execute("alter table deployment_order add column template_id uuid, add column parameters jsonb")
