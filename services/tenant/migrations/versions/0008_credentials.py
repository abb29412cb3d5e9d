"""API keys, and service accounts with their secrets."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute(
        """
        create table api_key (
            tenant_id uuid not null,
            api_key_id uuid not null,
            user_id uuid not null,
            name text not null,
            prefix text not null,
            key_hash bytea not null,
            scopes text[] not null,
            created_at timestamptz not null,
            expires_at timestamptz not null,
            last_used_at timestamptz,
            primary key (tenant_id, api_key_id),
            foreign key (tenant_id, user_id) references app_user on delete cascade
        )
        """
    )
    op.execute("create index api_key_hash on api_key (key_hash)")
    op.execute("create index api_key_user on api_key (tenant_id, user_id)")
    op.execute(
        """
        create table service_account (
            tenant_id uuid not null,
            service_account_id uuid not null,
            name text not null,
            description text,
            scopes text[] not null,
            version int not null,
            created_at timestamptz not null,
            updated_at timestamptz not null,
            primary key (tenant_id, service_account_id)
        )
        """
    )
    op.execute("create unique index service_account_id on service_account (service_account_id)")
    op.execute(
        """
        create table service_account_credential (
            tenant_id uuid not null,
            credential_id uuid not null,
            service_account_id uuid not null,
            secret_hash bytea not null,
            created_at timestamptz not null,
            expires_at timestamptz,
            last_used_at timestamptz,
            primary key (tenant_id, credential_id),
            foreign key (tenant_id, service_account_id) references service_account on delete cascade
        )
        """
    )
    op.execute("create index service_account_credentials on service_account_credential (tenant_id, service_account_id)")
    # Whoever has a key or a secret says of no tenant; the platform's context finds it, as it does a user who signs in.
    for table in ("api_key", "service_account", "service_account_credential"):
        guard(table, platform_reads=True)
