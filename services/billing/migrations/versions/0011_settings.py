"""Billing goes by what a tenant's settings say of it."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.execute(
        """
        create table billing_settings (
            tenant_id uuid primary key,
            payment_terms_days int check (payment_terms_days >= 0),
            version int not null
        )
        """
    )
    guard("billing_settings")
