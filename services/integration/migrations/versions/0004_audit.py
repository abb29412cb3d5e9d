"""The audit log: who changed what, before and after, from where. It is added to, and nothing in it changes."""

from alembic import op

from chassis.persistence.schema import guard, service_name

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    service = service_name()
    api, consumer = f"{service}_api", f"{service}_consumer"
    # An entry has the id of its event. By time first, as it is read.
    op.execute(
        """
        create table audit_entry (
            tenant_id uuid not null,
            occurred_at timestamptz not null,
            entry_id uuid not null,
            action text not null,
            resource_type text not null,
            resource_id text not null,
            version bigint not null,
            actor text,
            actor_kind text,
            client_address text,
            before json,
            after json,
            trace_id text,
            primary key (tenant_id, occurred_at, entry_id)
        )
        """
    )
    op.execute("create index audit_entry_resource on audit_entry (tenant_id, resource_id, occurred_at, entry_id)")
    op.execute("create index audit_entry_actor on audit_entry (tenant_id, actor, occurred_at, entry_id)")
    # All that is known of what was changed since it was made. Of the rest the first entry says it.
    op.execute(
        """
        create table audit_state (
            tenant_id uuid not null,
            resource_type text not null,
            resource_id text not null,
            state json not null,
            primary key (tenant_id, resource_type, resource_id)
        )
        """
    )
    guard("audit_entry", platform_reads=True)
    guard("audit_state")
    op.execute(f"revoke insert, update, delete on audit_entry from {api}")
    op.execute(f"revoke update on audit_entry from {consumer}")
    op.execute(f"revoke all on audit_state from {api}")
    # Deleted is only what belongs to a tenant that leaves, once it is written down.
    op.execute(
        f"create policy departed on audit_entry as restrictive for delete to {consumer} using"
        " (exists (select from departure d where d.tenant_id = audit_entry.tenant_id and d.exported_at is not null))"
    )
    # Not by mistake either, whoever it is.
    op.execute(
        """
        create function refuse_change() returns trigger language plpgsql as $$
        begin
            raise exception '% is added to, and nothing in it changes', tg_table_name using errcode = '42501';
        end $$
        """
    )
    op.execute(
        "create trigger append_only before update or truncate on audit_entry"
        " for each statement execute function refuse_change()"
    )
