"""What every service's migrations say of every table: who may do what, to which tenant's rows (law 5)."""

from collections.abc import Collection

from alembic import op

from chassis.persistence.database import HELD

_API = "tenant_id = (select nullif(current_setting('app.tenant_id', true), '')::uuid)"
# nullif: after a transaction the setting is '', not null. A sub-select is evaluated once a statement.
_CONSUMER = (
    "tenant_id = any((select string_to_array(nullif(current_setting('app.tenant_ids', true), ''), ',')"
    "::uuid[])::uuid[])"
)
_PLATFORM = (
    "(select nullif(current_setting('app.tenant_id', true), '')::uuid) = '00000000-0000-0000-0000-000000000000'::uuid"
)

MOVED = "moved"
"""The policy of the tables whose rows go with a tenant that moves."""
# Not the rows' own tenant but the transaction's is asked for: once a statement, however many rows it changes.
_HOLD = """
create function hold_what_moves() returns trigger language plpgsql as $$
begin
    if current_user <> '{owner}' and exists (
        select from moving m where (m.held = 'everything' or m.held = 'requests' and current_user = '{api}')
        and m.tenant_id::text = any(string_to_array(coalesce(
            nullif(current_setting('app.tenant_id', true), ''), current_setting('app.tenant_ids', true)), ','))
    ) then
        raise exception 'the tenant is being moved' using errcode = 'lock_not_available', constraint = '{constraint}';
    end if;
    return null;
end $$
"""
_TABLES_OF_TENANTS = """
select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'tenant_id'
where c.relkind = 'r' and not c.relispartition and c.relnamespace = 'public'::regnamespace order by c.relname
"""


def service_name() -> str:
    """Return the service whose database is being migrated, from its name, `dotmac_<service>`."""
    name: str = op.get_bind().exec_driver_sql("select current_database()").scalar_one()
    return service_of_database(name)


def service_of_database(name: str) -> str:
    """Return `customer` for `dotmac_customer`, or for a copy of it such as `dotmac_customer__x`."""
    return name.removeprefix("dotmac_").split("__")[0]


def confinement(database: str) -> tuple[str, ...]:
    """Return the statements that let the service's own roles connect to its database, and nobody else (law 4)."""
    service = service_of_database(database)
    members = ", ".join(f"{service}_{role}" for role in ("owner", "api", "consumer", "relay"))
    return f"revoke all on database {database} from public", f"grant connect on database {database} to {members}"


def guard(table: str, *, platform_reads: bool = False, worker_reads: bool = False) -> None:
    """Force row-level security on a table with a `tenant_id`, and grant it to the API and consumer roles.

    platform_reads: the platform's own tenant administers every tenant's rows of this table.
    worker_reads: consumers may look for work in it across tenants before they take up a tenant's context.
    """
    service = service_name()
    api, consumer = f"{service}_api", f"{service}_consumer"
    condition = f"({_API}) or ({_PLATFORM})" if platform_reads else _API
    op.execute(f"alter table {table} enable row level security")
    op.execute(f"alter table {table} force row level security")
    op.execute(f"create policy tenant on {table} to {api} using ({condition}) with check ({condition})")
    op.execute(f"create policy tenants on {table} to {consumer} using ({_CONSUMER}) with check ({_CONSUMER})")
    if worker_reads:
        op.execute(f"create policy worker on {table} for select to {consumer} using (true)")
    op.execute(f"grant select, insert, update, delete on {table} to {api}, {consumer}")


def create_idempotency_table() -> None:
    """Create the table of answers already given to an `Idempotency-Key`."""
    op.execute(
        """
        create table idempotency_key (
            tenant_id uuid not null,
            principal text not null,
            key text not null,
            request_hash bytea not null,
            status int,
            headers jsonb,
            body bytea,
            created_at timestamptz not null default now(),
            primary key (tenant_id, principal, key)
        )
        """
    )
    op.execute("create index idempotency_key_age on idempotency_key (tenant_id, created_at)")
    guard("idempotency_key")


def expire_idempotency_keys() -> None:
    """Let the consumer role see, and so delete, the keys of every tenant that are older than a day."""
    op.execute(
        f"create policy expired on idempotency_key to {service_name()}_consumer"
        " using (created_at < now() - interval '1 day')"
    )
    # Answers that were kept before are not sealed.
    op.execute("truncate idempotency_key")


def let_tenants_move(*, but: Collection[str] = ()) -> None:
    """Let the owner move tenants' rows, of those alone that are held, and have nobody else change these meanwhile.

    held: `requests` are refused, or `everything` is, what consumers and workers do as well; `nothing` any more, where
    the tenant has arrived at an instance of its own. arrives: whether the tenant comes to this place, else it leaves.
    but: tables whose rows stay where they are.
    """
    service = service_name()
    owner, api, consumer = (f"{service}_{role}" for role in ("owner", "api", "consumer"))
    op.execute(
        "create table moving (tenant_id uuid primary key, deployment_id uuid not null,"
        " held text not null check (held in ('requests', 'everything', 'nothing')), arrives boolean not null)"
    )
    op.execute("alter table moving enable row level security")
    op.execute("alter table moving force row level security")
    op.execute(f"create policy tenant on moving for select to {api} using ({_API})")
    op.execute(f"create policy worker on moving for select to {consumer} using (true)")
    op.execute(f"create policy mover on moving to {owner} using (true)")
    op.execute(f"grant select on moving to {api}, {consumer}")
    bind = op.get_bind()
    bind.exec_driver_sql(_HOLD.format(owner=owner, api=api, constraint=HELD))
    staying = {"moving", "outbox", "journal", *but}
    for table in bind.exec_driver_sql(_TABLES_OF_TENANTS).scalars().all():
        if table in staying:
            continue
        op.execute(
            f"create trigger held before insert or update or delete on {table}"
            " for each statement execute function hold_what_moves()"
        )
        op.execute(
            f"create policy {MOVED} on {table} to {owner}"
            " using (tenant_id in (select m.tenant_id from moving m where m.held = 'everything'))"
        )
