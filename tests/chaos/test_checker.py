"""The checker finds what is wrong: a fault of each kind, planted in a platform that has none."""

import json
import secrets
from dataclasses import replace
from typing import Any
from uuid import uuid4

import asyncpg
from aiokafka import AIOKafkaProducer

from chassis.ids import PLATFORM_TENANT
from tests.chaos.campaign import judged
from tests.chaos.checker import Event, Evidence, Violation, read, violations
from tests.chaos.load import Load
from tests.chaos.platform import Platform


class Garden:
    """Plants faults, each in an aggregate of its own, and keeps what the checker has to say of it."""

    def __init__(self, platform: Platform, load: Load, evidence: Evidence) -> None:
        self._platform = platform
        self._events = {event.id: event for event in evidence.topics}
        self._used: set[str] = set()
        self.told = replace(load.told, events=list(load.told.events), refused=[], runs=list(load.told.runs))
        self.expected: list[tuple[str, str]] = []
        """Kinds of violation, and a part of the text that says where."""

    def expect(self, kind: str, where: str) -> None:
        self.expected.append((kind, where))

    def event(self, kind: str, apart_from: str | None = None) -> Event:
        """Return an event of a type that nothing was planted on, of any tenant but one."""
        events = (it for it in self._events.values() if it.type == kind and it.tenant != apart_from)
        found = next((it for it in events if it.key not in self._used), None)
        assert found is not None, f"there is no {kind} left to plant a fault on"
        self._used.add(found.key)
        return found

    async def sql(self, service: str, sql: str, *args: Any) -> Any:
        """Change a database behind the services' backs; return the first value that comes back."""
        connection = await asyncpg.connect(self._platform.databases[service])
        try:
            found = await connection.fetchval(sql, *args)
        finally:
            await connection.close()
        assert found is not None, f"nothing was planted by {sql}"
        return found

    async def send(self, event: Event, **changes: Any) -> str:
        """Publish an event that no service wrote: like another one, but for the changes; return its id."""
        made = event._replace(**{"id": str(uuid4()), **changes})
        headers = {
            "ce_id": made.id,
            "ce_type": f"dotmac.{made.topic.split('.')[0]}.{made.type}",
            "ce_tenantid": made.tenant,
            "ce_aggregateversion": str(made.version),
            **({"ce_causationid": made.cause} if made.cause else {}),
        }
        async with AIOKafkaProducer(bootstrap_servers=self._platform.bootstrap_servers) as producer:
            encoded = [(name, value.encode()) for name, value in headers.items()]
            await producer.send_and_wait(made.topic, made.value, made.key.encode(), made.partition, headers=encoded)
        return made.id


async def test_a_fault_of_each_kind_is_found(platform: Platform, load: Load) -> None:
    async with load.running():
        await load.served()
    evidence, wrong = await judged(platform, load)
    assert wrong == []
    await platform.stack.children["billing-relay"].stop()  # what is planted in its outbox stays there
    garden = Garden(platform, load, evidence)
    stranger = load.isps[-1].tenant.id
    told = garden.told

    # What the clients were told.
    nobody = str(uuid4())
    missing = {"type": "CustomerCreated", "key": nobody, "tenant": stranger, "version": 1, "value": {}}
    changed = {**told.events[-1], "value": {"tenant_id": "another"}}
    told.events += [missing, changed]
    garden.expect("lost", nobody)
    garden.expect("lost", f"{changed['key']}, version {changed['version']} tells other tenant_id")
    told.refused.append("POST /payments: 409")
    garden.expect("refused", "409")
    told.runs.append(run := str(uuid4()))
    garden.expect("unfinished", run)
    told.strangers.append("one was shown another's customer")
    garden.expect("tenant", "another's customer")

    # Delivery.
    event = garden.event("CustomerCreated")
    forget = "delete from inbox where consumer = 'billing-customers' and event_id = $1::uuid returning true"
    await garden.sql("billing", forget, event.id)
    garden.expect("undelivered", f"{event.id} of {event.key}, version 1, to billing-customers")
    copied = "select {} event_id, topic, key, tenant_id, headers, value"
    event = garden.event("PlanPublished")
    columns = "(event_id, topic, key, tenant_id, headers, value)"
    await garden.sql(
        "billing",
        f"insert into outbox {columns} {copied.format('')} from journal where event_id = $1::uuid returning id",
        event.id,
    )
    garden.expect("undelivered", "1 events in the outbox of billing")
    event, unsent = garden.event("PlanPublished"), uuid4()
    again = (
        "insert into journal select published_at, outbox_id, {}, topic, key, tenant_id,"
        " (headers::jsonb || jsonb_build_object('ce_id', {}))::json, value, partition, \"offset\""
        " from journal where event_id = $1::uuid returning outbox_id"
    )
    await garden.sql("billing", again.format(f"'{unsent}'::uuid", f"'{unsent}'::text"), event.id)
    garden.expect("undelivered", str(unsent))
    garden.expect("phantom", await garden.send(garden.event("PaymentReceived")))
    event = garden.event("SubscriptionActivated")
    value = json.dumps({**json.loads(event.value), "started_on": "2020-01-01"}).encode()
    await garden.send(event, id=event.id, value=value)
    garden.expect("phantom", f"{event.id} of {event.key}, version 1 at")
    unknown = uuid4()
    await garden.sql("customer", "insert into inbox values ('customer', '/', $1) returning true", unknown)
    garden.expect("phantom", f"customer handled {unknown}")
    letter = (
        'insert into dead_letter (consumer, topic, partition, "offset", headers, parked, reason)'
        " values ('tenant', 'provisioning.deployment.v1', 0, -1, '{}', false, 'planted') returning id"
    )
    await garden.sql("tenant", letter)
    garden.expect("dead letter", "tenant: planted")

    # Order, and writes without events.
    event = garden.event("SubscriptionActivated")
    await garden.send(event, version=3)
    garden.expect("order", f"{event.key} has the versions [1, 3]")
    event = garden.event("CustomerSnapshot")
    await garden.send(event, type="CustomerSnapshotRemoved", value=None)
    garden.expect("order", f"{await garden.send(event)} of {event.key}, version {event.version} comes after its tomb")
    silent = uuid4()
    await garden.sql(
        "customer",
        "insert into customer (tenant_id, customer_id, name, status, paperless_billing, version)"
        " values ($1::uuid, $2, 'Silent', 'active', false, 1) returning true",
        stranger,
        silent,
    )
    garden.expect("untold", f"customer {silent} has version 1 and 0 events")
    garden.expect("effect", f"customer {silent} has 0 accounts")

    # Effects that are there more than once.
    event = garden.event("BillingAccountOpened", apart_from=str(PLATFORM_TENANT))  # whose accounts no customer opens
    await garden.send(event, key=str(uuid4()))
    garden.expect("effect", "caused 2 of BillingAccountOpened instead of 1")
    event = garden.event("PlanPublished")
    await garden.sql("billing", again.format("event_id", "headers->>'ce_id'"), event.id)
    garden.expect("effect", f"{event.id} was moved to the journal of billing twice")
    reference = secrets.token_hex(8)
    twice = (
        "update payment set reference = $1 where payment_id in"
        " (select payment_id from payment where reference is not null limit 2) returning reference"
    )
    await garden.sql("billing", twice, reference)
    garden.expect("effect", f"payment {reference} was taken 2 times")
    reopened = "update billing_account set status = 'open' where customer_id = $1::uuid returning true"
    event = garden.event("CustomerTerminated")
    await garden.sql("billing", reopened, event.key)
    garden.expect("effect", f"of customer {event.key} and its account one has ended")

    event = garden.event("InvoiceIssued")
    await garden.sql("integration", "delete from feed_event where event_id = $1::uuid returning true", event.id)
    garden.expect("effect", f"{event.id} of {event.key}, version 1 stands in its tenant's feed 0 times")
    event = garden.event("InvoiceIssued", apart_from=stranger)
    led = "update feed_event set tenant_id = $1::uuid, position = 1000000 where event_id = $2::uuid returning true"
    await garden.sql("integration", led, stranger, event.id)
    garden.expect("effect", f"{event.id} of {event.key}, version 1 stands in its tenant's feed 0 times")
    event = garden.event("InvoiceIssued")
    unsaid = "delete from audit_entry where entry_id = $1::uuid returning true"
    await garden.sql("integration", unsaid, event.id)
    garden.expect("effect", f"{event.id} of {event.key}, version 1 stands in the audit log 0 times")
    event = garden.event("InvoiceIssued")
    columns = "entry_id, action, resource_type, resource_id, version"
    repeated = (
        f"insert into audit_entry (tenant_id, occurred_at, {columns})"
        f" select tenant_id, occurred_at - interval '1 hour', {columns} from audit_entry"
        " where entry_id = $1::uuid returning true"
    )
    await garden.sql("integration", repeated, event.id)
    garden.expect("effect", f"{event.id} of {event.key}, version 1 stands in the audit log 2 times")

    # Money.
    for table, column, change in (
        ("invoice", "invoice_id", "paid_minor = paid_minor - 1"),
        ("invoice_line", "invoice_id", "amount_minor = amount_minor + 1"),
        ("payment", "payment_id", "allocated_minor = allocated_minor + 1"),
        ("ledger_entry", "source_id", "amount_minor = amount_minor + 1"),
    ):
        chosen = garden.event("PaymentReceived" if table == "payment" else "InvoicePaid")
        found = f"{column} = $1::uuid returning {column}::text"
        key = await garden.sql("billing", f"update {table} set {change} where {found}", chosen.key)
        garden.expect("money", key)
    numbered = "update invoice set number = 'INV-9999999' where invoice_id = $1::uuid returning tenant_id::text"
    tenant = await garden.sql("billing", numbered, garden.event("InvoiceIssued").key)
    garden.expect("money", f"the invoices of {tenant} are not numbered")

    # Tenants.
    event = garden.event("CustomerTerminated", apart_from=stranger)
    moved = "update billing_account set tenant_id = $1::uuid where customer_id = $2::uuid returning account_id::text"
    account = await garden.sql("billing", moved, stranger, event.key)
    garden.expect("tenant", f"a row of billing_account of {stranger} hangs on customer_id {event.key}")
    garden.expect("tenant", f"of {account}, version 1 is of {event.tenant}")
    event = garden.event("InvoiceIssued", apart_from=stranger)
    crossed = await garden.send(event, tenant=stranger)
    garden.expect("tenant", crossed)

    wrong = violations(await read(platform.databases, platform.bootstrap_servers), told)
    unfound = [item for item in garden.expected if not any(_says(violation, *item) for violation in wrong)]
    assert unfound == [], wrong
    kinds = {"lost", "undelivered", "phantom", "untold", "order", "effect", "money", "tenant"}
    assert {kind for kind, _ in garden.expected} == kinds | {"refused", "unfinished", "dead letter"}


def _says(violation: Violation, kind: str, where: str) -> bool:
    return violation.kind == kind and where in violation.where
