"""The feed of a tenant's events; webhook endpoints, and what is delivered to them."""

from alembic import op

from chassis.messaging.schema import create_messaging_tables
from chassis.persistence.schema import create_idempotency_table, expire_idempotency_keys, guard, service_name

revision = "0001"
down_revision = None


def upgrade() -> None:
    # Whoever adds events to a tenant's feed holds its row until they are committed: so positions become visible in
    # their order, and a reader who is at one has missed none before it.
    op.execute(
        """
        create table feed (
            tenant_id uuid primary key,
            position bigint not null,
            forgotten bigint not null default 0
        )
        """
    )
    op.execute(
        """
        create table feed_event (
            tenant_id uuid not null,
            position bigint not null,
            event_id uuid not null,
            type text not null,
            recorded_at timestamptz not null,
            document bytea not null,
            primary key (tenant_id, position)
        )
        """
    )
    op.execute("create index feed_event_type on feed_event (tenant_id, type, position)")
    # They come in the order of time, so the smallest of indexes finds the old ones.
    op.execute("create index feed_event_age on feed_event using brin (recorded_at)")
    op.execute(
        """
        create table webhook_endpoint (
            tenant_id uuid not null,
            endpoint_id uuid not null,
            url text not null,
            event_types text[] not null,
            description text,
            enabled boolean not null,
            disabled_reason text,
            secret bytea not null,
            previous_secret bytea,
            previous_until timestamptz,
            version int not null,
            created_at timestamptz not null default now(),
            updated_at timestamptz not null default now(),
            primary key (tenant_id, endpoint_id)
        )
        """
    )
    # Apart from the endpoint, which changes when its owner changes it; this changes with every event.
    op.execute(
        """
        create table webhook_queue (
            tenant_id uuid not null,
            endpoint_id uuid not null,
            due_at timestamptz,
            lease uuid,
            leased_until timestamptz,
            failing_since timestamptz,
            primary key (tenant_id, endpoint_id),
            foreign key (tenant_id, endpoint_id) references webhook_endpoint on delete cascade
        )
        """
    )
    op.execute(
        """
        create table webhook_delivery (
            tenant_id uuid not null,
            delivery_id uuid not null,
            endpoint_id uuid not null,
            position bigint not null,
            sequence bigint generated always as identity,
            event_id uuid not null,
            event_type text not null,
            replay boolean not null,
            status text not null default 'pending' check (status in ('pending', 'succeeded', 'failed')),
            attempts int not null default 0,
            first_attempt_at timestamptz,
            created_at timestamptz not null,
            finished_at timestamptz,
            primary key (tenant_id, delivery_id),
            foreign key (tenant_id, endpoint_id) references webhook_endpoint on delete cascade,
            foreign key (tenant_id, position) references feed_event on delete cascade
        )
        """
    )
    op.execute(
        "create index webhook_delivery_pending on webhook_delivery (tenant_id, endpoint_id, sequence)"
        " where status = 'pending'"
    )
    op.execute("create index webhook_delivery_log on webhook_delivery (tenant_id, endpoint_id, delivery_id)")
    op.execute("create index webhook_delivery_event on webhook_delivery (tenant_id, position)")
    op.execute(
        """
        create table webhook_attempt (
            tenant_id uuid not null,
            delivery_id uuid not null,
            number int not null,
            started_at timestamptz not null,
            milliseconds int not null,
            status int,
            error text,
            response text,
            primary key (tenant_id, delivery_id, number),
            foreign key (tenant_id, delivery_id) references webhook_delivery on delete cascade
        )
        """
    )
    for table in ("feed", "feed_event", "webhook_endpoint", "webhook_attempt"):
        guard(table)
    for table in ("webhook_queue", "webhook_delivery"):
        guard(table, worker_reads=True)
    # What is forgotten is found across tenants: the consumer role sees events of every tenant that are over.
    op.execute(
        f"create policy expired on feed_event to {service_name()}_consumer"
        " using (recorded_at < now() - interval '7 days')"
    )
    create_idempotency_table()
    expire_idempotency_keys()
    create_messaging_tables()
