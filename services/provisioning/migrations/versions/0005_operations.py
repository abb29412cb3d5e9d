"""A deployment has an operation: by default it deploys."""

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute("alter table deployment add column operation text not null default 'deploy'")
