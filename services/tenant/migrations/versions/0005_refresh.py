"""Sessions that are refreshed, resets of passwords, and sign-ins that failed."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        """
        create table sign_in_session (
            tenant_id uuid not null,
            session_id uuid not null,
            user_id uuid not null,
            address text,
            user_agent text,
            created_at timestamptz not null,
            used_at timestamptz not null,
            idle_until timestamptz not null,
            expires_at timestamptz not null,
            primary key (tenant_id, session_id),
            foreign key (tenant_id, user_id) references app_user on delete cascade
        )
        """
    )
    op.execute("create index sign_in_session_user on sign_in_session (tenant_id, user_id)")
    # Used ones stay as long as their session: one that comes again was stolen.
    op.execute(
        """
        create table refresh_token (
            tenant_id uuid not null,
            token_hash bytea not null,
            session_id uuid not null,
            used_at timestamptz,
            primary key (tenant_id, token_hash),
            foreign key (tenant_id, session_id) references sign_in_session on delete cascade
        )
        """
    )
    op.execute("create index refresh_token_hash on refresh_token (token_hash)")
    op.execute("create index refresh_token_session on refresh_token (tenant_id, session_id)")
    op.execute(
        """
        create table password_reset (
            tenant_id uuid not null,
            token_hash bytea not null,
            user_id uuid not null,
            expires_at timestamptz not null,
            primary key (tenant_id, token_hash),
            foreign key (tenant_id, user_id) references app_user on delete cascade
        )
        """
    )
    op.execute("create index password_reset_token on password_reset (token_hash)")
    op.execute("create index password_reset_user on password_reset (tenant_id, user_id)")
    # Of names that exist and of others alike, and so the platform's own: its tenant is always zero.
    op.execute(
        """
        create table sign_in_attempts (
            tenant_id uuid not null,
            account bytea not null,
            failures int not null,
            last_at timestamptz not null,
            primary key (tenant_id, account)
        )
        """
    )
    op.execute("create index sign_in_attempts_age on sign_in_attempts (tenant_id, last_at)")
    for table in ("sign_in_session", "refresh_token", "password_reset", "sign_in_attempts"):
        guard(table, platform_reads=True)
    op.execute("alter table app_user add column reset_requested_at timestamptz")
    # The password that the settings gave the first administrator: one that was chosen since is not undone by a restart.
    op.execute("alter table app_user add column bootstrap_hash text")
    # No event told of the platform's own users so far: the first that does has the version 1, as anywhere.
    op.execute("alter table app_user alter column version set default 0")
    op.execute("alter table app_user no force row level security")
    op.execute("update app_user set version = 0 where tenant_id = '00000000-0000-0000-0000-000000000000'")
    op.execute("alter table app_user force row level security")
