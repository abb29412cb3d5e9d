"""The platform bills its tenants: plans with a price for each active customer, and a meter of these."""

from alembic import op

from chassis.persistence.schema import guard

revision = "0010"
down_revision = "0009"

# A customer is active while its account is open. By a trigger, so that instances of the version before, which run on
# beside this one, are metered too; once a statement, which has a batch's accounts. A tenant's events come in several
# transactions at once: each counts in the row of its connection, so that none waits for another.
_METER = """
create function meter_active_customers() returns trigger language plpgsql as $$
begin
    if tg_op = 'INSERT' then
        insert into active_customers as m (tenant_id, day, slot, change)
        select tenant_id, (now() at time zone 'utc')::date, pg_backend_pid() % 8, count(*)
        from later where status = 'open' group by tenant_id order by tenant_id
        on conflict (tenant_id, day, slot) do update set change = m.change + excluded.change;
    elsif tg_op = 'UPDATE' then
        insert into active_customers as m (tenant_id, day, slot, change)
        select tenant_id, (now() at time zone 'utc')::date, pg_backend_pid() % 8, sum(n)
        from (
            select tenant_id, 1 as n from later where status = 'open'
            union all select tenant_id, -1 from earlier where status = 'open'
        ) as changed group by tenant_id having sum(n) <> 0 order by tenant_id
        on conflict (tenant_id, day, slot) do update set change = m.change + excluded.change;
    else
        insert into active_customers as m (tenant_id, day, slot, change)
        select tenant_id, (now() at time zone 'utc')::date, pg_backend_pid() % 8, -count(*)
        from earlier where status = 'open' group by tenant_id order by tenant_id
        on conflict (tenant_id, day, slot) do update set change = m.change + excluded.change;
    end if;
    return null;
end $$
"""
_TRIGGERS = {
    "insert": "new table as later",
    "update": "old table as earlier new table as later",
    "delete": "old table as earlier",
}


def upgrade() -> None:
    op.execute("alter table plan add column unit_price_minor bigint check (unit_price_minor >= 0)")
    op.execute("alter table subscription add column unit_price_minor bigint")
    op.execute("alter table invoice_line add column quantity bigint")
    op.execute("alter table billing_account add column name text, add column contact_email text")
    op.execute(
        """
        create table active_customers (
            tenant_id uuid not null,
            day date not null,
            slot int not null,
            change int not null,
            primary key (tenant_id, day, slot)
        )
        """
    )
    op.execute(_METER)
    for event, tables in _TRIGGERS.items():
        op.execute(
            f"create trigger metered_{event} after {event} on billing_account referencing {tables}"
            " for each statement execute function meter_active_customers()"
        )
    # Those who are there already, which the owner sees while it is not itself held to row-level security; who opens
    # accounts waits for the end of this transaction.
    op.execute("alter table billing_account no force row level security")
    op.execute(
        "insert into active_customers select tenant_id, (now() at time zone 'utc')::date, 0, count(*)"
        " from billing_account where status = 'open' group by tenant_id"
    )
    op.execute("alter table billing_account force row level security")
    # A billing run of the platform reads what its tenants have.
    guard("active_customers", worker_reads=True)
