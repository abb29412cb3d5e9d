"""Accounts, plans, subscriptions, billing runs, invoices, payments, the ledger."""

from alembic import op

from chassis.messaging.schema import create_messaging_tables
from chassis.persistence.schema import create_idempotency_table, guard

revision = "0001"
down_revision = None

_TABLES = """
create table workspace (
    tenant_id uuid primary key,
    deployment_id uuid not null,
    currency text not null,
    time_zone text not null,
    last_invoice_number int not null default 0,
    created_at timestamptz not null default now()
);
create table billing_account (
    tenant_id uuid not null,
    account_id uuid not null,
    customer_id uuid not null,
    external_reference text,
    currency text not null,
    status text not null,
    version int not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, account_id),
    unique (tenant_id, customer_id)
);
create index billing_account_reference on billing_account (tenant_id, external_reference);
create table plan (
    tenant_id uuid not null,
    plan_id uuid not null,
    code text not null,
    name text not null,
    price_minor bigint not null check (price_minor >= 0),
    currency text not null,
    version int not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, plan_id),
    unique (tenant_id, code)
);
create table subscription (
    tenant_id uuid not null,
    subscription_id uuid not null,
    account_id uuid not null,
    plan_id uuid not null,
    price_minor bigint not null check (price_minor >= 0),
    currency text not null,
    started_on date not null,
    cancelled_on date,
    version int not null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    primary key (tenant_id, subscription_id),
    foreign key (tenant_id, account_id) references billing_account,
    foreign key (tenant_id, plan_id) references plan
);
create unique index subscription_active on subscription (tenant_id, account_id, plan_id) where cancelled_on is null;
create index subscription_account on subscription (tenant_id, account_id);
create table billing_run (
    tenant_id uuid not null,
    run_id uuid not null,
    period_start date not null,
    period_end date not null,
    status text not null,
    after_account uuid,
    processed int not null default 0,
    invoices int not null default 0,
    total_minor bigint not null default 0,
    currency text not null,
    created_at timestamptz not null default now(),
    finished_at timestamptz,
    primary key (tenant_id, run_id)
);
create index billing_run_open on billing_run (created_at) where finished_at is null;
create table invoice (
    tenant_id uuid not null,
    invoice_id uuid not null,
    account_id uuid not null,
    customer_id uuid not null,
    number text not null,
    period_start date not null,
    period_end date not null,
    issued_at timestamptz not null,
    due_on date not null,
    total_minor bigint not null,
    paid_minor bigint not null default 0 check (paid_minor between 0 and total_minor),
    currency text not null,
    version int not null,
    primary key (tenant_id, invoice_id),
    unique (tenant_id, number),
    unique (tenant_id, account_id, period_start)
);
create index invoice_period on invoice (tenant_id, period_start, invoice_id);
create index invoice_open on invoice (tenant_id, account_id, number) where paid_minor < total_minor;
create table invoice_line (
    tenant_id uuid not null,
    invoice_id uuid not null,
    line int not null,
    subscription_id uuid not null,
    description text not null,
    amount_minor bigint not null,
    primary key (tenant_id, invoice_id, line)
);
create table payment (
    tenant_id uuid not null,
    payment_id uuid not null,
    account_id uuid not null,
    amount_minor bigint not null check (amount_minor > 0),
    allocated_minor bigint not null,
    currency text not null,
    method text not null,
    reference text,
    received_at timestamptz not null,
    primary key (tenant_id, payment_id),
    foreign key (tenant_id, account_id) references billing_account
);
create table payment_allocation (
    tenant_id uuid not null,
    payment_id uuid not null,
    invoice_id uuid not null,
    amount_minor bigint not null check (amount_minor > 0),
    primary key (tenant_id, payment_id, invoice_id)
);
create table ledger_entry (
    tenant_id uuid not null,
    entry_id bigint generated always as identity,
    source_id uuid not null,
    account text not null check (account in ('receivable', 'revenue', 'cash')),
    amount_minor bigint not null,
    currency text not null,
    primary key (tenant_id, entry_id)
);
create index ledger_source on ledger_entry (tenant_id, source_id)
"""


def upgrade() -> None:
    for statement in _TABLES.split(";\n"):
        op.execute(statement)
    for table in (
        "workspace",
        "billing_account",
        "plan",
        "subscription",
        "invoice",
        "invoice_line",
        "payment",
        "payment_allocation",
        "ledger_entry",
    ):
        guard(table)
    guard("billing_run", worker_reads=True)
    create_idempotency_table()
    create_messaging_tables()
