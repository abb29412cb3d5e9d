"""ISPs sign up by themselves, and the platform decides."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    # The platform's own rows: its tenant is always zero, and what comes of one is `created_tenant_id`.
    op.execute(
        """
        create table sign_up (
            tenant_id uuid not null,
            sign_up_id uuid not null,
            name text not null,
            slug text not null,
            contact_email text not null,
            contact_email_lc text collate "C" generated always as (lower(contact_email)) stored,
            plan text not null,
            currency text not null,
            country text not null,
            time_zone text not null,
            status text not null,
            reason text,
            created_tenant_id uuid,
            version int not null,
            created_at timestamptz not null,
            decided_at timestamptz,
            decided_by text,
            primary key (tenant_id, sign_up_id)
        )
        """
    )
    # One at a time of each address, however often it is sent.
    op.execute("create unique index sign_up_open on sign_up (tenant_id, contact_email_lc) where status = 'pending'")
    guard("sign_up")
