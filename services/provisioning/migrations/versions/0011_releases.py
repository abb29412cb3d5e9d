"""Instances are of a release, may be several of a service, and are replaced by others beside them."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    # Without a release they are of the newest; without a choice all of them serve.
    op.execute(
        """
        alter table instance
            add release text,
            add instances int not null default 1 check (instances > 0),
            add generation int not null default 1,
            add serving text[],
            add served_since timestamptz,
            add before jsonb,
            add changed_by text
        """
    )
