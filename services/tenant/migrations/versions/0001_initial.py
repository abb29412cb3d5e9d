"""Tenants, users, invitations."""

from alembic import op

from chassis.messaging.schema import create_messaging_tables
from chassis.persistence.schema import create_idempotency_table, guard

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        create table tenant (
            tenant_id uuid primary key,
            name text not null,
            slug text not null unique,
            contact_email text not null,
            plan text not null,
            currency text not null,
            country text not null,
            time_zone text not null,
            status text not null,
            deployment_id uuid,
            version int not null,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now()
        )
        """
    )
    op.execute(
        """
        create table app_user (
            tenant_id uuid not null,
            user_id uuid not null,
            email text not null,
            email_lc text collate "C" generated always as (lower(email)) stored,
            password_hash text,
            roles text[] not null,
            deployment_id uuid,
            created_at timestamptz not null default now(),
            primary key (tenant_id, user_id),
            unique (tenant_id, email_lc)
        )
        """
    )
    op.execute(
        """
        create table invitation (
            tenant_id uuid not null,
            token_hash bytea not null,
            user_id uuid not null,
            expires_at timestamptz not null,
            accepted_at timestamptz,
            primary key (tenant_id, token_hash),
            foreign key (tenant_id, user_id) references app_user on delete cascade
        )
        """
    )
    op.execute("create index invitation_token on invitation (token_hash)")
    for table in ("tenant", "app_user", "invitation"):
        guard(table, platform_reads=True)
    create_idempotency_table()
    create_messaging_tables()
