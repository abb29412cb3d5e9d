"""An account's open invoices are found among all of its invoices: an index less to write with each invoice."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.execute("drop index invoice_open")
