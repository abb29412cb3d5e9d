"""A tenant's plan has a quota of customers, and how many are active is counted."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    # A tenant that was there before has its row when its first customer after this is counted, or its plan is told.
    op.execute(
        """
        create table customer_quota (
            tenant_id uuid primary key,
            most int,
            used int not null default 0,
            version int not null default 0,
            tenant_version int not null default 0
        )
        """
    )
    guard("customer_quota")
