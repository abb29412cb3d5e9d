"""A tenant's invoices have numbers with a prefix of their own."""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute("alter table workspace add column invoice_prefix text not null default 'INV'")
