"""Tokens can be revoked: one, or all that a user was issued."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # The platform's administrators name a user without its tenant.
    op.execute("create unique index app_user_id on app_user (user_id)")
    # The aggregate that the events of a user's tokens tell of; made with the first of them.
    op.execute(
        """
        create table user_session (
            tenant_id uuid not null,
            user_id uuid not null,
            issued_before timestamptz,
            version int not null,
            primary key (tenant_id, user_id)
        )
        """
    )
    op.execute(
        """
        create table revoked_token (
            tenant_id uuid not null,
            user_id uuid not null,
            token_id uuid not null,
            expires_at timestamptz not null,
            primary key (tenant_id, user_id, token_id)
        )
        """
    )
    for table in ("user_session", "revoked_token"):
        guard(table, platform_reads=True)
