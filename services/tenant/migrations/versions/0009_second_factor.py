"""A second factor beside the password, and codes for those who lost it."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    # One that is not confirmed was begun, and asks nobody for a code yet.
    op.execute(
        """
        create table second_factor (
            tenant_id uuid not null,
            user_id uuid not null,
            sealed_secret bytea not null,
            last_step bigint not null,
            confirmed_at timestamptz,
            primary key (tenant_id, user_id),
            foreign key (tenant_id, user_id) references app_user on delete cascade
        )
        """
    )
    op.execute(
        """
        create table recovery_code (
            tenant_id uuid not null,
            user_id uuid not null,
            code_hash bytea not null,
            primary key (tenant_id, user_id, code_hash),
            foreign key (tenant_id, user_id) references second_factor on delete cascade
        )
        """
    )
    for table in ("second_factor", "recovery_code"):
        guard(table, platform_reads=True)
