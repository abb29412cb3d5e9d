"""Old entries of the audit log are deleted: of any tenant, and none that is younger than 90 days whatever is set."""

from alembic import op

from chassis.persistence.schema import service_name

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    consumer = f"{service_name()}_consumer"
    # What is to go is looked for across tenants.
    op.execute("create index audit_entry_age on audit_entry (occurred_at)")
    old = "occurred_at < now() - interval '90 days'"
    op.execute(f"create policy expired on audit_entry for select to {consumer} using ({old})")
    op.execute("drop policy departed on audit_entry")
    op.execute(
        f"create policy over on audit_entry as restrictive for delete to {consumer} using ({old} or"
        " exists (select from departure d where d.tenant_id = audit_entry.tenant_id and d.exported_at is not null))"
    )
