"""The tables of the outbox and the inbox, the same in every service's database."""

from alembic import op

from chassis.persistence.schema import guard, service_name

_EVENT = """
    event_id uuid not null,
    topic text not null,
    key text not null,
    tenant_id uuid not null,
    headers json not null,
    value bytea not null
"""

_TABLES = f"""
create table outbox (
    id bigint generated always as identity primary key,
    {_EVENT},
    created_at timestamptz not null default now()
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_threshold = 10000);

create table journal (
    published_at timestamptz not null default now(),
    outbox_id bigint not null,
    {_EVENT},
    partition int not null,
    "offset" bigint not null
) partition by range (published_at);
create index journal_event on journal (event_id);
create index journal_time on journal (published_at, outbox_id);

create table inbox (
    consumer text not null,
    source text not null,
    event_id uuid not null,
    received_at timestamptz not null default now(),
    primary key (consumer, source, event_id)
);
create index inbox_age on inbox using brin (received_at);

create table dead_letter (
    id bigint generated always as identity primary key,
    consumer text not null,
    topic text not null,
    partition int not null,
    "offset" bigint not null,
    key bytea,
    headers jsonb not null,
    value bytea,
    parked boolean not null,
    reason text not null,
    attempts int not null default 1,
    created_at timestamptz not null default now(),
    replay_requested_at timestamptz,
    resolved_at timestamptz,
    resolution text check (resolution in ('replayed', 'discarded')),
    unique (consumer, topic, partition, "offset")
);
create index dead_letter_open on dead_letter (consumer, topic, key) where resolved_at is null;

-- Partitions of the journal, a day each. The relay may call this, and nothing else that changes the schema.
create function roll_journal(retention_days int) returns void language plpgsql security definer
set search_path = public as $$
declare
    day date;
    old record;
begin
    perform pg_advisory_xact_lock(hashtext('roll_journal'));
    for day in select generate_series(current_date - 1, current_date + 2, interval '1 day')::date loop
        execute format('create table if not exists %I partition of journal for values from (%L) to (%L)',
            'journal_' || to_char(day, 'YYYYMMDD'), day::timestamptz, (day + 1)::timestamptz);
    end loop;
    for old in
        select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
        where i.inhparent = 'journal'::regclass
          and to_date(right(c.relname, 8), 'YYYYMMDD') < current_date - retention_days
    loop
        execute format('drop table %I', old.relname);
    end loop;
end $$;
revoke execute on function roll_journal(int) from public;
"""


def create_messaging_tables() -> None:
    """Create outbox, journal, inbox and dead letters, and say which role may do what with them."""
    service = service_name()
    api, consumer, relay = (f"{service}_{role}" for role in ("api", "consumer", "relay"))
    bind = op.get_bind()
    for statement in _split(_TABLES):
        bind.exec_driver_sql(statement)
    for grant in (
        f"grant insert on outbox to {api}, {consumer}",
        f"grant select, delete on outbox to {relay}",
        f"grant select, insert on journal to {relay}",
        f"grant select, insert, delete on inbox to {consumer}",
        f"grant select, insert, update on dead_letter to {consumer}",
        f"grant execute on function roll_journal(int) to {relay}",
    ):
        bind.exec_driver_sql(grant)


def let_administrators_repair() -> None:
    """Keep who did what with a dead letter, and let the API do what the command line does."""
    service = service_name()
    api, consumer = f"{service}_api", f"{service}_consumer"
    for statement in (
        "create table dead_letter_action (id bigint generated always as identity primary key,"
        " letter_id bigint not null references dead_letter, principal text not null,"
        " action text not null check (action in ('replay', 'discard')), at timestamptz not null default now())",
        "create index dead_letter_action_letter on dead_letter_action (letter_id)",
        f"grant select, insert on dead_letter_action to {api}, {consumer}",
        f"grant select, update on dead_letter to {api}",
        f"grant insert on inbox to {api}",
    ):
        op.execute(statement)


_DEPARTURE = """
create table departure (
    tenant_id uuid not null,
    deployment_id uuid not null,
    files jsonb,
    tables jsonb,
    exported_at timestamptz,
    deleted_at timestamptz,
    version int not null,
    primary key (tenant_id, deployment_id)
);

-- Events that tell of a tenant, but for those on topics that are kept; returns how many it deleted, and are left. Those
-- that wait in the outbox are left to the relay, and counted.
create function forget_tenant_events(tenant uuid, kept text[], out deleted bigint, out remaining bigint)
language plpgsql security definer set search_path = public as $$
declare
    letters bigint[];
    more bigint;
begin
    select coalesce(array_agg(id), '{}') into letters from dead_letter
        where headers @> jsonb_build_array(jsonb_build_array('ce_tenantid', encode(tenant::text::bytea, 'base64')));
    delete from dead_letter_action where letter_id = any(letters);
    delete from dead_letter where id = any(letters);
    get diagnostics deleted = row_count;
    delete from journal where tenant_id = tenant and topic <> all(kept);
    get diagnostics more = row_count;
    deleted := deleted + more;
    select count(*) into remaining from outbox where tenant_id = tenant and topic <> all(kept);
end $$;
revoke execute on function forget_tenant_events(uuid, text[]) from public;
"""


def let_tenants_leave() -> None:
    """Keep what was written down and deleted of tenants that left, and let the consumer forget events about them."""
    for statement in _split(_DEPARTURE):
        op.get_bind().exec_driver_sql(statement)
    guard("departure")
    op.execute(f"grant execute on function forget_tenant_events(uuid, text[]) to {service_name()}_consumer")


def let_aggregates_be_removed() -> None:
    """Let events have no value: tombstones, by which a service that owns a compacted topic takes back what it told.

    They say nothing of a tenant but ids, and stay in the journal: what is published again ends with them.
    """
    for table in ("outbox", "journal"):
        op.execute(f"alter table {table} alter value drop not null")
    forget = next(statement for statement in _split(_DEPARTURE) if "function forget_tenant_events" in statement)
    op.get_bind().exec_driver_sql(
        forget.replace("create function", "create or replace function").replace(
            "topic <> all(kept)", "topic <> all(kept) and value is not null"
        )
    )


def let_tenants_be_listed(table: str) -> None:
    """Let the consumer ask for the ids of all tenants that have a row in a table, without a sight of these rows."""
    service = service_name()
    op.execute(f"create policy listed on {table} for select to {service}_owner using (true)")
    op.get_bind().exec_driver_sql(
        "create function present_tenants() returns setof uuid language sql stable security definer"
        f" set search_path = public as $$ select tenant_id from {table} order by tenant_id $$"
    )
    op.execute("revoke execute on function present_tenants() from public")
    op.execute(f"grant execute on function present_tenants() to {service}_consumer")


def _split(script: str) -> list[str]:
    """Split a script at semicolons outside dollar quotes: the driver prepares one statement at a time."""
    statements, current, quoted = [], "", False
    for piece in script.split("$$"):
        if quoted:
            current += f"$${piece}$$"
        else:
            *whole, rest = piece.split(";\n")
            for statement in whole:
                statements.append(current + statement)
                current = ""
            current += rest
        quoted = not quoted
    return [statement for statement in (*statements, current) if statement.strip()]
