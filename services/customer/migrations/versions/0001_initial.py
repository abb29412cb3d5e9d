"""Customers, workspaces, imports."""

from alembic import op

from chassis.messaging.schema import create_messaging_tables
from chassis.persistence.schema import create_idempotency_table, guard

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        create table workspace (
            tenant_id uuid primary key,
            deployment_id uuid not null,
            name text not null,
            country text not null,
            time_zone text not null,
            created_at timestamptz not null default now()
        )
        """
    )
    # Searches go by equality or prefix over stored lower-case columns: lower() and like use no index under
    # row-level security.
    op.execute(
        """
        create table customer (
            tenant_id uuid not null,
            customer_id uuid not null,
            external_reference text,
            name text not null,
            email text,
            phone text,
            city text,
            postal_code text,
            country text,
            status text not null check (status in ('active', 'terminated')),
            payment_method text,
            paperless_billing boolean not null,
            version int not null,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            name_lc text collate "C" generated always as (lower(name)) stored,
            email_lc text collate "C" generated always as (lower(email)) stored,
            city_lc text collate "C" generated always as (lower(city)) stored,
            primary key (tenant_id, customer_id),
            unique (tenant_id, external_reference)
        )
        """
    )
    for column in ("name_lc", "email_lc", "city_lc", "status"):
        op.execute(f"create index customer_{column} on customer (tenant_id, {column}, customer_id)")
    op.execute(
        """
        create table customer_import (
            tenant_id uuid not null,
            import_id uuid not null,
            status text not null,
            total int not null,
            processed int not null default 0,
            created int not null default 0,
            updated int not null default 0,
            unchanged int not null default 0,
            rejected int not null default 0,
            created_at timestamptz not null default now(),
            finished_at timestamptz,
            primary key (tenant_id, import_id)
        )
        """
    )
    op.execute("create index customer_import_open on customer_import (created_at) where finished_at is null")
    op.execute(
        """
        create table import_chunk (
            tenant_id uuid not null,
            import_id uuid not null,
            first_line int not null,
            rows jsonb not null,
            primary key (tenant_id, import_id, first_line),
            foreign key (tenant_id, import_id) references customer_import on delete cascade
        )
        """
    )
    op.execute(
        """
        create table import_seen (
            tenant_id uuid not null,
            import_id uuid not null,
            external_reference text not null,
            line int not null,
            primary key (tenant_id, import_id, external_reference),
            foreign key (tenant_id, import_id) references customer_import on delete cascade
        )
        """
    )
    op.execute(
        """
        create table import_rejection (
            tenant_id uuid not null,
            import_id uuid not null,
            line int not null,
            reason text not null,
            "row" jsonb,
            primary key (tenant_id, import_id, line),
            foreign key (tenant_id, import_id) references customer_import on delete cascade
        )
        """
    )
    for table in ("workspace", "customer", "import_chunk", "import_seen", "import_rejection"):
        guard(table)
    guard("customer_import", worker_reads=True)
    create_idempotency_table()
    create_messaging_tables()
