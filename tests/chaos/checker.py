"""Judges what happened by what it left: the databases, Kafka, and what the clients were told.

Written apart from the code under test, and imports nothing of it: what must be true of whom is said here once more, in
the words of the contracts. All who work must have stopped to (`settled`) when it reads.
"""

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

WRITERS = ("tenant", "provisioning", "customer", "billing")
"""The services that publish events under the load."""
SERVICES = (*WRITERS, "integration")
_PLATFORM = "00000000-0000-0000-0000-000000000000"
"""The tenant that bills the others."""

AGGREGATES = {
    "tenant.tenant.v1": ("tenant", "tenant", "tenant_id"),
    "tenant.user.v1": ("tenant", "app_user", "user_id"),
    "tenant.settings.v1": ("tenant", "settings", "settings_id"),
    "provisioning.deployment.v1": ("provisioning", "deployment", "deployment_id"),
    "customer.customer.v1": ("customer", "customer", "customer_id"),
    "customer.workspace.v1": ("customer", "workspace", "tenant_id"),
    "billing.workspace.v1": ("billing", "workspace", "tenant_id"),
    "billing.account.v1": ("billing", "billing_account", "account_id"),
    "billing.plan.v1": ("billing", "plan", "plan_id"),
    "billing.subscription.v1": ("billing", "subscription", "subscription_id"),
    "billing.invoice.v1": ("billing", "invoice", "invoice_id"),
    "billing.payment.v1": ("billing", "payment", "payment_id"),
}
"""Of each topic: the service and the table of the aggregate, and the column that is the key."""

_TENANT = {
    "TenantRegistered",
    "TenantUpdated",
    "TenantDeploying",
    "TenantDeploymentFailed",
    "TenantActivated",
    "TenantSuspended",
    "TenantMaintenanceStarted",
    "TenantResumed",
    "UserQuotaThresholdReached",
}
_CUSTOMER = {"CustomerCreated", "CustomerUpdated", "CustomerTerminated"}
_SUBSCRIPTION = {"SubscriptionActivated", "SubscriptionCancelled"}
FEED = {
    "tenant.tenant.v1": _TENANT,
    "customer.customer.v1": _CUSTOMER,
    "customer.quota.v1": {"CustomerQuotaThresholdReached"},
    "gateway.quota.v1": {"ApiCallQuotaThresholdReached"},
    "billing.account.v1": {"BillingAccountOpened", "BillingAccountUpdated", "BillingAccountClosed"},
    "billing.plan.v1": {"PlanPublished", "PlanChanged"},
    "billing.subscription.v1": _SUBSCRIPTION,
    "billing.invoice.v1": {"InvoiceIssued", "InvoicePartiallyPaid", "InvoicePaid"},
    "billing.payment.v1": {"PaymentReceived"},
}
"""What a tenant's own systems are told, by topic; of webhooks there are none under this load."""

AUDITED = (
    *AGGREGATES,
    "tenant.session.v1",
    "tenant.deployment.v1",
    "customer.quota.v1",
    "provisioning.drift.v1",
)
"""Topics under the load of which each event is an entry of the audit log."""

HANDLED: dict[str, tuple[tuple[str, ...], set[str] | None]] = {
    "integration-audit": (AUDITED, None),
    "tenant-snapshots": (("tenant.tenant.v1",), _TENANT),
    "tenant-settings-snapshots": (("tenant.settings.v1",), {"SettingsChanged"}),
    "customer-snapshots": (("customer.customer.v1",), _CUSTOMER),
    "billing-snapshots": (("billing.subscription.v1",), _SUBSCRIPTION),
    "integration": (tuple(FEED), set[str]().union(*FEED.values())),
    "tenant": (
        ("provisioning.deployment.v1",),
        {
            "AdministratorRequested",
            "AdministratorRemovalRequested",
            "TenantTransitionRequested",
            "TenantTransitionReversalRequested",
            "DeploymentStarted",
            "DeploymentSucceeded",
            "DeploymentFailed",
        },
    ),
    "customer": (("provisioning.deployment.v1",), {"WorkspaceRequested", "WorkspaceRemovalRequested"}),
    "customer-quotas": (("tenant.tenant-snapshot.v1",), {"TenantSnapshot", "TenantSnapshotRemoved"}),
    "billing-workspaces": (("provisioning.deployment.v1",), {"WorkspaceRequested", "WorkspaceRemovalRequested"}),
    "billing-customers": (("customer.customer.v1",), _CUSTOMER),
    "billing-settings": (
        ("tenant.settings-snapshot.v1",),
        {"SettingsSnapshot", "SettingsSnapshotRemoved"},
    ),
    "billing-tenants": (("tenant.tenant-snapshot.v1",), {"TenantSnapshot", "TenantSnapshotRemoved"}),
    "provisioning": (
        ("tenant.deployment.v1", "tenant.user.v1", "customer.workspace.v1", "billing.workspace.v1"),
        {
            "DeploymentRequested",
            "CustomerWorkspaceReady",
            "BillingWorkspaceReady",
            "AdministratorCreated",
            "CustomerWorkspaceRemoved",
            "BillingWorkspaceRemoved",
            "AdministratorRemoved",
            "TenantTransitionMade",
            "TenantTransitionRefused",
            "TenantTransitionReversed",
        },
    ),
}
"""Of each consumer: its topics, and the types of event that it acts on, or None for all."""

EFFECTS = {
    "DeploymentRequested": {"DeploymentStarted": 1, "WorkspaceRequested": 1},
    "WorkspaceRequested": {"CustomerWorkspaceReady": 1, "BillingWorkspaceReady": 1, "PlanPublished": 3},
    "AdministratorRequested": {"AdministratorCreated": 1},
    "DeploymentSucceeded": {"TenantActivated": 1},
    "CustomerCreated": {"BillingAccountOpened": 1},
    "CustomerTerminated": {"BillingAccountClosed": 1},
}
"""What an event causes, and how often: itself events, of which each says what caused it."""

WORK = {
    "provisioning": "select count(*) from deployment where status not in ('succeeded', 'failed')",
    "customer": "select count(*) from customer_import where finished_at is null",
    "billing": "select count(*) from billing_run where finished_at is null",
}
"""What a service still has to do besides events."""

_TABLES = {
    "tenant": {
        "tenant": "tenant_id, version",
        "app_user": "tenant_id, user_id, version",
        "settings": "tenant_id, settings_id, version",
    },
    "provisioning": {"deployment": "tenant_id, deployment_id, version, status"},
    "customer": {"workspace": "tenant_id, version", "customer": "tenant_id, customer_id, version, status"},
    "billing": {
        "workspace": "tenant_id, version, last_invoice_number",
        "billing_account": "tenant_id, account_id, customer_id, version, status",
        "plan": "tenant_id, plan_id, version",
        "subscription": "tenant_id, subscription_id, account_id, version",
        "invoice": "tenant_id, invoice_id, account_id, number, total_minor, paid_minor, version",
        "invoice_line": "tenant_id, invoice_id, subscription_id, amount_minor",
        "payment": "tenant_id, payment_id, account_id, amount_minor, allocated_minor, reference, 1 as version",
        "payment_allocation": "tenant_id, payment_id, invoice_id, amount_minor",
        "ledger_entry": "tenant_id, source_id, account, amount_minor",
    },
    "integration": {
        "feed_event": "tenant_id, event_id",
        "audit_entry": "tenant_id, entry_id, action, resource_id, version",
    },
}


class Violation(NamedTuple):
    """What was broken: `kind` is the word for it, the rest says where."""

    kind: str
    where: str


class Event(NamedTuple):
    """An event as it lies in a topic, or in a journal."""

    id: str
    type: str
    topic: str
    key: str
    tenant: str
    version: int
    cause: str | None
    partition: int
    offset: int
    value: bytes | None

    @classmethod
    def of(
        cls, topic: str, key: str, headers: Mapping[str, str], partition: int, offset: int, value: bytes | None
    ) -> "Event":
        kind = headers["ce_type"].rpartition(".")[2]
        tenant, version = headers["ce_tenantid"], int(headers["ce_aggregateversion"])
        cause = headers.get("ce_causationid")
        return cls(headers["ce_id"], kind, topic, key, tenant, version, cause, partition, offset, value)

    @property
    def is_snapshot(self) -> bool:
        """Whether it tells what is, not what changed: several may be of one version, and Kafka keeps the last alone."""
        return "-snapshot." in self.topic

    @property
    def told(self) -> tuple[Any, ...]:
        """All of it but its place."""
        return (*self[:7], self.value)

    def __str__(self) -> str:
        return f"{self.type} {self.id} of {self.key}, version {self.version}"


@dataclass
class Told:
    """What the clients were told, or noticed, as plain data."""

    events: list[dict[str, Any]] = field(default_factory=list)
    """What each acknowledged write must have told the world: type, key, tenant, version, and what its value holds."""
    runs: list[str] = field(default_factory=list)
    """Billing runs that were accepted."""
    refused: list[str] = field(default_factory=list)
    """Writes that were answered as they must not be, or not at all."""
    strangers: list[str] = field(default_factory=list)
    """What a tenant was shown that is not its own."""


@dataclass
class Evidence:
    """What was left. Ids are text; rows are dictionaries."""

    topics: list[Event]
    """In the order of each partition, as often as they were sent."""
    journals: dict[str, list[Event]]
    outbox: Counter[str]
    inbox: dict[str, set[str]]
    """By consumer: ids of the events that it handled."""
    letters: list[str]
    rows: dict[tuple[str, str], list[dict[str, Any]]]
    runs: set[str]
    """Billing runs that came to their end."""


async def read(databases: Mapping[str, str], kafka: str) -> Evidence:
    """Read everything. databases: of each service the address, as a user whom row-level security does not bind."""
    outbox: Counter[str] = Counter()
    inbox: dict[str, set[str]] = defaultdict(set)
    letters: list[str] = []
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    runs: set[str] = set()
    for service in SERVICES:
        connection = await asyncpg.connect(databases[service])
        try:
            outbox[service] = await connection.fetchval("select count(*) from outbox")
            for row in await connection.fetch("select consumer, event_id::text as id from inbox"):
                inbox[row["consumer"]].add(row["id"])
            found = await connection.fetch("select consumer, reason from dead_letter where resolved_at is null")
            letters += [f"{row['consumer']}: {row['reason']}" for row in found]
            for table, columns in _TABLES[service].items():
                found = await connection.fetch(f"select {columns} from {table}")
                rows[service, table] = [
                    {name: str(value) if name.endswith("_id") and value else value for name, value in row.items()}
                    for row in found
                ]
            if service == "billing":
                found = await connection.fetch("select run_id::text from billing_run where finished_at is not null")
                runs = {row["run_id"] for row in found}
        finally:
            await connection.close()
    return Evidence(await topics(kafka), await journals(databases), outbox, inbox, letters, rows, runs)


async def journals(databases: Mapping[str, str]) -> dict[str, list[Event]]:
    """Read what each service says that it published, in the order of topics and partitions; its relay may."""
    found = {}
    for service, url in databases.items():
        connection = await asyncpg.connect(url)
        try:
            rows = await connection.fetch(
                'select topic, key, headers::text as headers, partition, "offset", value from journal'
                ' order by topic, partition, "offset"'
            )
        finally:
            await connection.close()
        found[service] = [Event.of(**{**row, "headers": json.loads(row["headers"])}) for row in rows]
    return found


async def topics(kafka: str) -> list[Event]:
    """Read everything that Kafka holds."""
    found = []
    places = await _places(kafka)
    if not places:
        return []
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        left = {place for place in places if ends[place] > await consumer.position(place)}
        while left:
            for place, records in (await consumer.getmany(timeout_ms=500, max_records=5_000)).items():
                found += [
                    Event.of(
                        place.topic,
                        record.key.decode(),
                        {name: value.decode() for name, value in record.headers},
                        place.partition,
                        record.offset,
                        record.value,
                    )
                    for record in records
                ]
            left = {place for place in left if ends[place] > await consumer.position(place)}
    return sorted(found, key=lambda event: (event.topic, event.partition, event.offset))


async def settled(databases: Mapping[str, str], kafka: str, seconds: float) -> Counter[str]:
    """Return once nothing is on its way any more, or it took so long: how much of what still is."""
    deadline = time.monotonic() + seconds
    while True:
        before = await _ends(kafka)
        left = await _behind(kafka, before) + await _waiting(databases)
        if (not left and await _ends(kafka) == before) or time.monotonic() > deadline:
            return left
        await asyncio.sleep(0.2)


async def _waiting(databases: Mapping[str, str]) -> Counter[str]:
    left: Counter[str] = Counter()
    for service, url in databases.items():
        connection = await asyncpg.connect(url)
        try:
            for sql in ("select count(*) from outbox", WORK.get(service)):
                if sql:
                    left[f"{service}: {sql}"] = await connection.fetchval(sql)
        finally:
            await connection.close()
    return +left


async def _places(kafka: str) -> list[TopicPartition]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        return [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await admin.describe_topics()
            if not topic["is_internal"]
            for partition in topic["partitions"]
        ]
    finally:
        await admin.close()


async def _ends(kafka: str) -> dict[TopicPartition, int]:
    places = await _places(kafka)
    async with AIOKafkaConsumer(bootstrap_servers=kafka) as consumer:
        ends: dict[TopicPartition, int] = await consumer.end_offsets(places)
        return ends


async def _behind(kafka: str, ends: Mapping[TopicPartition, int]) -> Counter[str]:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    try:
        behind: Counter[str] = Counter()
        for consumer, (names, _) in HANDLED.items():
            done = await admin.list_consumer_group_offsets(consumer)
            behind[f"events that {consumer} has not read"] = sum(
                end - (max(0, done[place].offset) if place in done else 0)
                for place, end in ends.items()
                if place.topic in names
            )
        return +behind
    finally:
        await admin.close()


def violations(found: Evidence, told: Told) -> list[Violation]:
    """Return all that contradicts the laws, in no order."""
    distinct = {event.id: event for event in reversed(found.topics)}  # as each came first
    written = {event.id: event for events in found.journals.values() for event in events}
    return [
        *_service(found, told),
        *_acknowledged(distinct.values(), told),
        *_delivery(found, distinct, written),
        *disorder(found.topics),
        *_writes(found, distinct.values()),
        *_effects(found, distinct.values()),
        *_tenants(found, distinct.values(), told),
        *_money(found, distinct.values()),
    ]


def _service(found: Evidence, told: Told) -> Iterator[Violation]:
    yield from (Violation("refused", text) for text in told.refused)
    yield from (Violation("dead letter", text) for text in found.letters)
    yield from (Violation("unfinished", f"billing run {run}") for run in told.runs if run not in found.runs)


def _acknowledged(events: Iterable[Event], told: Told) -> Iterator[Violation]:
    """Every acknowledged write's event was delivered, and says what was acknowledged."""
    known = {(event.type, event.key, event.version): event for event in events}
    for write in told.events:
        event = known.get((write["type"], write["key"], write["version"]))
        if event is None:
            yield Violation("lost", f"{write['type']} of {write['key']}, version {write['version']}")
            continue
        value = json.loads(event.value or b"{}")
        wrong = {name for name, expected in write["value"].items() if value.get(name) != expected}
        if wrong or event.tenant != write["tenant"]:
            yield Violation("lost", f"{event} tells other {', '.join(wrong) or 'tenants'} than was acknowledged")


def _delivery(found: Evidence, distinct: Mapping[str, Event], written: Mapping[str, Event]) -> Iterator[Violation]:
    """What was written was published and handled by all who act on it; what was not written, was not."""
    yield from (Violation("undelivered", f"{n} events in the outbox of {it}") for it, n in found.outbox.items() if n)
    for service, events in found.journals.items():
        twice = [id_ for id_, count in Counter(event.id for event in events).items() if count > 1]
        yield from (Violation("effect", f"{id_} was moved to the journal of {service} twice") for id_ in twice)
    for id_ in written.keys() - distinct.keys():
        if not written[id_].is_snapshot:
            yield Violation("undelivered", str(written[id_]))
    yield from (Violation("phantom", str(distinct[id_])) for id_ in distinct.keys() - written.keys())
    for event in found.topics:
        original = written.get(event.id)
        if original and event.told != original.told:
            yield Violation("phantom", f"{event} at {event.partition}:{event.offset} differs from what was written")
    for consumer, (names, types) in HANDLED.items():
        due = {
            event.id for event in distinct.values() if event.topic in names and (types is None or event.type in types)
        }
        handled = found.inbox.get(consumer, set())
        yield from (Violation("undelivered", f"{distinct[id_]}, to {consumer}") for id_ in due - handled)
        yield from (Violation("phantom", f"{consumer} handled {id_}") for id_ in handled - due)


def disorder(events: Sequence[Event]) -> Iterator[Violation]:
    """Versions of an aggregate are 1, 2, 3 … in the order of its partition, what came again left out; what is taken
    back is not told again.

    events: in the order of topics and partitions.
    """
    seen: set[str] = set()
    versions: dict[tuple[str, str], list[int]] = defaultdict(list)
    places: dict[tuple[str, str], set[int]] = defaultdict(set)
    last: dict[tuple[str, str], Event] = {}
    removed: set[tuple[str, str]] = set()
    for event in events:
        last[event.topic, event.key] = event
        if event.value is None:
            removed.add((event.topic, event.key))
        places[event.topic, event.key].add(event.partition)
        if event.id not in seen and not event.is_snapshot:
            seen.add(event.id)
            versions[event.topic, event.key].append(event.version)
    for (topic, key), found in versions.items():
        if found != list(range(1, len(found) + 1)):
            yield Violation("order", f"{topic} {key} has the versions {found}")
    for place in removed:
        if last[place].value is not None:
            yield Violation("order", f"{last[place]} comes after its tombstone")
    for (topic, key), partitions in places.items():
        if len(partitions) > 1:
            yield Violation("order", f"{topic} {key} is in the partitions {sorted(partitions)}")


def _writes(found: Evidence, events: Iterable[Event]) -> Iterator[Violation]:
    """An aggregate's row has the version that its events lead to; neither is there without the other."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    undone = set()  # by a deployment that failed: its users and plans are gone
    for event in events:
        counted[event.topic][event.key] += 1
        if event.type == "DeploymentFailed":
            undone.add(event.tenant)
    for topic, (service, table, column) in AGGREGATES.items():
        rows = {row[column]: row["version"] for row in found.rows[service, table]}
        for key in rows.keys() | counted[topic].keys():
            if rows.get(key) == counted[topic][key] or (undone and table in ("app_user", "plan") and key not in rows):
                continue
            kind = "phantom" if counted[topic][key] > rows.get(key, 0) else "untold"
            told = f"version {rows[key]}" if key in rows else "no row"
            yield Violation(kind, f"{table} {key} has {told} and {counted[topic][key]} events")
    asked, begun = (
        counted["tenant.deployment.v1"],
        {row["deployment_id"] for row in found.rows["provisioning", "deployment"]},
    )
    yield from (Violation("effect", f"deployment {key} is not one request and one row") for key in asked.keys() ^ begun)


def _effects(found: Evidence, events: Iterable[Event]) -> Iterator[Violation]:
    """Each event has what it causes exactly once."""
    events = list(events)
    caused = Counter((event.cause, event.type) for event in events if event.cause)
    for event in events:
        for kind, times in EFFECTS.get(event.type, {}).items():
            if caused[event.id, kind] != times:
                yield Violation("effect", f"{event} caused {caused[event.id, kind]} of {kind} instead of {times}")
    fed = Counter((row["tenant_id"], row["event_id"]) for row in found.rows["integration", "feed_event"])
    for event in events:
        if event.type in FEED.get(event.topic, ()) and fed[event.tenant, event.id] != 1:
            yield Violation("effect", f"{event} stands in its tenant's feed {fed[event.tenant, event.id]} times")
    entries = Counter(
        (row["tenant_id"], row["entry_id"], row["action"].rpartition(".")[2], row["resource_id"], row["version"])
        for row in found.rows["integration", "audit_entry"]
    )
    for event in events:
        times = entries[event.tenant, event.id, event.type, event.key, event.version]
        if event.topic in AUDITED and times != 1:
            yield Violation("effect", f"{event} stands in the audit log {times} times")
    accounts = Counter(row["customer_id"] for row in found.rows["billing", "billing_account"])
    for row in found.rows["customer", "customer"]:
        if accounts[row["customer_id"]] != 1:
            yield Violation("effect", f"customer {row['customer_id']} has {accounts[row['customer_id']]} accounts")
    ended = {row["customer_id"] for row in found.rows["customer", "customer"] if row["status"] == "terminated"}
    closed = {row["customer_id"] for row in found.rows["billing", "billing_account"] if row["status"] == "closed"}
    yield from (Violation("effect", f"of customer {it} and its account one has ended") for it in ended ^ closed)
    taken = Counter(row["reference"] for row in found.rows["billing", "payment"] if row["reference"])
    yield from (Violation("effect", f"payment {it} was taken {n} times") for it, n in taken.items() if n > 1)


def _tenants(found: Evidence, events: Iterable[Event], told: Told) -> Iterator[Violation]:
    """Nothing crossed a tenant."""
    yield from (Violation("tenant", text) for text in told.strangers)
    owners: dict[tuple[str, str], str] = {}
    for topic, (service, table, column) in AGGREGATES.items():
        owners |= {(topic, row[column]): row["tenant_id"] for row in found.rows[service, table]}
    for event in events:
        said = json.loads(event.value)["tenant_id"] if event.value is not None else event.tenant
        owner = owners.get((event.topic, event.key), event.tenant)
        if len({said, owner, event.tenant}) > 1:
            yield Violation("tenant", f"{event} is of {event.tenant}, its value of {said}, its aggregate of {owner}")
    parents = {
        ("billing", "billing_account"): ("customer_id", "customer.customer.v1"),
        ("billing", "subscription"): ("account_id", "billing.account.v1"),
        ("billing", "invoice"): ("account_id", "billing.account.v1"),
        ("billing", "payment"): ("account_id", "billing.account.v1"),
        ("billing", "invoice_line"): ("invoice_id", "billing.invoice.v1"),
        ("billing", "payment_allocation"): ("payment_id", "billing.payment.v1"),
    }
    for place, (column, topic) in parents.items():
        for row in found.rows[place]:
            if owners.get((topic, row[column])) != row["tenant_id"] and not (
                # Whom the platform bills are its tenants.
                (place[1], row["tenant_id"]) == ("billing_account", _PLATFORM)
                and ("tenant.tenant.v1", row[column]) in owners
            ):
                yield Violation("tenant", f"a row of {place[1]} of {row['tenant_id']} hangs on {column} {row[column]}")


def _money(found: Evidence, events: Iterable[Event]) -> Iterator[Violation]:
    """Invoices, payments, allocations, the ledger and the events say the same sums."""
    rows = {table: found.rows["billing", table] for table in _TABLES["billing"]}
    lines, paid, allocated = (
        _sums(rows["invoice_line"], "invoice_id"),
        _sums(rows["payment_allocation"], "invoice_id"),
        _sums(rows["payment_allocation"], "payment_id"),
    )
    issued, reached, received = {}, Counter[str](), {}
    for event in events:
        known = event.value if event.topic in ("billing.invoice.v1", "billing.payment.v1") else None
        value = json.loads(known or b"{}")
        match event.type:
            case "InvoiceIssued":
                issued[event.key] = value["total"]["amount_minor"]
            case "InvoicePartiallyPaid":
                reached[event.key] = max(reached[event.key], value["paid"]["amount_minor"])
            case "InvoicePaid":
                reached[event.key] = value["total"]["amount_minor"]
            case "PaymentReceived":
                received[event.key] = (value["amount"]["amount_minor"], value["allocated"]["amount_minor"])
    entries: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows["ledger_entry"]:
        entries[row["source_id"]][row["account"]] += row["amount_minor"]
    expected: dict[str, dict[str, int]] = {}
    for row in rows["invoice"]:
        key, total = row["invoice_id"], row["total_minor"]
        expected[key] = {"receivable": total, "revenue": -total}
        if {lines[key], issued.get(key)} != {total}:
            yield Violation("money", f"invoice {key} is {total}, its lines {lines[key]}, its event {issued.get(key)}")
        if {paid[key], reached[key]} != {row["paid_minor"]}:
            said = f"its allocations {paid[key]}, its events {reached[key]}"
            yield Violation("money", f"of invoice {key} {row['paid_minor']} is paid, {said}")
    for row in rows["payment"]:
        key, amount = row["payment_id"], row["amount_minor"]
        expected[key] = {"cash": amount, "receivable": -amount}
        if allocated[key] != row["allocated_minor"] or received.get(key) != (amount, row["allocated_minor"]):
            yield Violation(
                "money", f"payment {key} is {amount}, of which {allocated[key]} pay; told {received.get(key)}"
            )
    for key in expected.keys() | entries.keys():
        if {**entries[key]} != expected.get(key, {}):
            yield Violation("money", f"the ledger has {dict(entries[key])} of {key}, not {expected.get(key, {})}")
    last = {row["tenant_id"]: row["last_invoice_number"] for row in rows["workspace"]}
    by_tenant = sorted(rows["invoice"], key=lambda row: (row["tenant_id"], row["number"]))
    for tenant, invoices in groupby(by_tenant, key=lambda row: row["tenant_id"]):
        numbers = sorted(int(row["number"].rpartition("-")[2]) for row in invoices)
        if numbers != list(range(1, last[tenant] + 1)):
            yield Violation("money", f"the invoices of {tenant} are not numbered 1 to {last[tenant]}")


def _sums(rows: Iterable[Mapping[str, Any]], column: str) -> Counter[str]:
    sums: Counter[str] = Counter()
    for row in rows:
        sums[row[column]] += row["amount_minor"]
    return sums
