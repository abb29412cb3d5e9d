"""What the platform tells of itself: traces to a collector, logs, and metrics that a real Prometheus is asked for."""

import json
import math
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import yaml
from aiokafka import AIOKafkaProducer, ConsumerRecord
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from typer.testing import CliRunner

from chassis.clock import SystemClock
from chassis.ids import PLATFORM_TENANT, new_id
from chassis.messaging import dead_letter
from chassis.messaging.consumer import PartitionLoop
from chassis.messaging.outbox import Outgoing, publish
from chassis.messaging.spans import MOST_OF_ONE_CAUSE
from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Database, Transaction
from chassis.telemetry import traces
from cli.demo import Demo
from cli.generator import generate
from cli.main import app
from cli.mapping import read_mapping
from cli.timings import Meter, saved
from deploy.roles import SERVICES
from deploy.stack.processes import Child, free_port
from deploy.stack.stack import Stack
from dotmac_contracts import topics
from dotmac_contracts.billing import PlanChanged, PlanPublished
from dotmac_contracts.envelope import Envelope, encode
from dotmac_contracts.money import Money
from tests.api import Api, eventually
from tests.collector import Collector, Span, tree
from tests.conftest import Tenant, deploy, registration
from tests.integration.test_journal import published
from tests.subscriptions import all_handled

V1 = "/api/v1"
OBSERVABILITY = Path(__file__).resolve().parents[2] / "deploy" / "observability"
MAPPING = OBSERVABILITY.parents[1] / "examples" / "telco-subscribers.mapping.yaml"


def this_month() -> str:
    return datetime.now(UTC).strftime("%Y-%m")


def _step(span: Span) -> str:
    """Return what was done with which event, as in `send CustomerCreated`."""
    return f"{span.name.split()[0]} {span.attributes.get('dotmac.event.type', '').split('.')[-1]}"


class Traced:
    """A trace that a client begins, to find its spans by."""

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self.id = f"{new_id().int:032x}"
        self.headers = {"traceparent": f"00-{self.id}-00f067aa0ba902b7-00"}

    @property
    def spans(self) -> list[Span]:
        """All but those of the integration service, which reads every event along, sooner or later."""
        return [span for span in self._collector.trace(self.id) if span.service != "dotmac-integration"]

    async def until(self, *names: str) -> list[Span]:
        """Return the spans once those of these names, or steps, are among them, and nothing is missing in between."""

        async def arrived() -> list[Span] | None:
            spans = self.spans
            ids = {span.id for span in spans}
            orphans = [span for span in spans if span.parent not in ids and span.parent != "00f067aa0ba902b7"]
            found = {span.name for span in spans} | {_step(span) for span in spans}
            return spans if found.issuperset(names) and not orphans else None

        try:
            return await eventually(arrived, 40)
        except AssertionError:
            pytest.fail("\n".join(["not all of it arrived:", *names, "there is:", *tree(self.spans)]))


async def test_a_request_and_all_that_follows_is_one_tree(tenant: Tenant, collector: Collector) -> None:
    trace = Traced(collector)
    answer = await tenant.api.send("POST", f"{V1}/customers", {"name": "Ada"}, headers=trace.headers)
    customer_id = answer.expect(201)["id"]
    spans = await trace.until(
        "send customer.customer.v1", "send billing.account.v1", "send customer.customer-snapshot.v1"
    )
    assert tree(spans) == [
        "dotmac-gateway: POST customer",
        "  dotmac-customer: POST /api/v1/customers",
        "    dotmac-customer: create customer.customer.v1",
        "      dotmac-billing: process customer.customer.v1",
        "        dotmac-billing: create billing.account.v1",
        "          dotmac-billing: send billing.account.v1",
        "      dotmac-customer: process customer.customer.v1",
        "        dotmac-customer: create customer.customer-snapshot.v1",
        "          dotmac-customer: send customer.customer-snapshot.v1",
        "      dotmac-customer: send customer.customer.v1",
    ]
    assert {span.attributes["dotmac.tenant.id"] for span in spans} == {tenant.id}
    assert {span.attributes["messaging.consumer.group.name"] for span in spans if span.kind == "consumer"} == {
        "billing-customers",
        "customer-snapshots",
    }
    by_name = {span.name: span for span in spans if span.service != "dotmac-customer" or span.kind != "consumer"}
    kinds = [by_name[f"{step} customer.customer.v1"].kind for step in ("create", "send", "process")]
    assert kinds == ["producer", "client", "consumer"]
    created, sent, processed = (by_name[f"{name} customer.customer.v1"] for name in ("create", "send", "process"))
    event_id = created.attributes["messaging.message.id"]
    for span in (created, sent, processed):
        assert span.attributes["messaging.message.id"] == event_id
        assert span.attributes["messaging.kafka.message.key"] == customer_id
        assert span.attributes["messaging.destination.name"] == "customer.customer.v1"
        assert span.attributes["dotmac.event.type"] == "dotmac.customer.CustomerCreated"
    assert processed.attributes["messaging.consumer.group.name"] == "billing-customers"
    assert created.start < sent.start < processed.start < processed.end
    assert not any(span.failed for span in spans)


async def test_a_deployment_is_one_tree_across_all_services_and_the_saga_s_own_steps(
    platform: Api, collector: Collector
) -> None:
    trace = Traced(collector)
    registered = (await platform.send("POST", f"{V1}/tenants", registration())).expect(201)
    path = f"{V1}/tenants/{registered['id']}/deployments"
    (await platform.send("POST", path, {}, headers=trace.headers)).expect(202)
    spans = await trace.until("send TenantActivated", "verify a deployment")
    by_id = {span.id: span for span in spans}
    story = [next(span for span in spans if _step(span) == "create TenantActivated")]
    while story[-1].parent in by_id:
        story.append(by_id[story[-1].parent])
    events = [_step(span).removeprefix("create ") for span in reversed(story) if span.kind == "producer"]
    assert events[:2] == ["DeploymentRequested", "WorkspaceRequested"]
    assert events[2] in ("CustomerWorkspaceReady", "BillingWorkspaceReady")  # whichever answered last
    assert events[3:] == ["AdministratorRequested", "AdministratorCreated", "DeploymentSucceeded", "TenantActivated"]
    assert story[-1].name == "POST tenant"
    # What reads along may do so later.
    assert {span.service for span in spans} | {"dotmac-integration"} == {
        f"dotmac-{name}" for name in ("gateway", *SERVICES)
    }


async def test_an_import_and_a_billing_run_go_on_in_the_trace_of_their_request(
    stack: Stack, tenant: Tenant, collector: Collector
) -> None:
    trace, many = Traced(collector), 3 * MOST_OF_ONE_CAUSE
    lines = [{"name": f"Customer {index}", "external_reference": f"T-{index}"} for index in range(many)]
    body = "\n".join(map(json.dumps, lines)).encode()
    headers = {**trace.headers, "Content-Type": "application/x-ndjson"}
    (await tenant.api.send("POST", f"{V1}/customers/imports", raw=body, headers=headers)).expect(202)
    spans = await trace.until("import a chunk", "send customer.customer.v1", "send billing.account.v1")
    created = [span for span in spans if span.name == "create customer.customer.v1"]
    chunk = next(span for span in spans if span.name == "import a chunk")
    assert [span.parent for span in created] == [chunk.id] * MOST_OF_ONE_CAUSE

    relay = await asyncpg.connect(stack.database_url("customer", "relay"))
    find = (
        "select headers->>'traceparent' as place from journal"
        " where headers->>'traceparent' like $1 and topic = 'customer.customer.v1'"
    )

    async def relayed() -> list[str] | None:
        places = [row["place"] for row in await relay.fetch(find, f"%{trace.id}%")]
        return places if len(places) == many else None

    try:
        flags = [place[-2:] for place in await eventually(relayed)]
    finally:
        await relay.close()
    assert (flags.count("01"), flags.count("00")) == (MOST_OF_ONE_CAUSE, many - MOST_OF_ONE_CAUSE)

    plan = (await tenant.api.send("GET", f"{V1}/plans")).expect(200)["items"][0]
    order = {"customer_external_reference": "T-1", "plan_code": plan["code"]}

    async def subscribed() -> bool:  # once its account is open
        answer = await tenant.api.send("POST", f"{V1}/subscriptions/bulk", {"items": [order]})
        return bool(answer.expect(200)["rejected"] == [])

    await eventually(subscribed)
    run = Traced(collector)
    (await tenant.api.send("POST", f"{V1}/billing-runs", {"period": this_month()}, headers=run.headers)).expect(202)
    spans = await run.until("bill a chunk", "send billing.invoice.v1")
    assert tree(spans)[:2] == ["dotmac-gateway: POST billing", "  dotmac-billing: POST /api/v1/billing-runs"]


ANSWERED = [
    "dotmac-test: process billing.plan.v1",
    "  dotmac-test: create billing.plan.v1",
    "    dotmac-billing: send billing.plan.v1",  # the service's relay sends whatever stands in its outbox
]


def record(offset: int, traceparent: str | None, price: int = 1) -> "ConsumerRecord[bytes, bytes]":
    event = PlanPublished(
        plan_id=new_id(), tenant_id=new_id(), code="X", name="X", price=Money(amount_minor=price, currency="USD")
    )
    envelope = Envelope(
        id=new_id(),
        source="/test",
        type=event.TYPE,
        time=datetime.now(UTC),
        partitionkey=event.key,
        tenantid=event.tenant_id,
        aggregateversion=1,
        traceparent=traceparent,
    )
    sent = encode(event, envelope)
    return ConsumerRecord(
        sent.topic, 0, offset, 0, 0, sent.key, sent.value, None, 0, len(sent.value), tuple(sent.headers)
    )


@pytest.fixture
async def consumer_database(stack: Stack) -> AsyncIterator[Database]:
    database = Database(stack.database_url("billing", "consumer"), pool_size=2)
    await database.connect()
    yield database
    await database.close()


@pytest.fixture
def tracing(collector: Collector) -> Iterator[Callable[[], None]]:
    """Trace in this process too; gives what sends the spans that are ended."""
    traces.configure("test", collector.endpoint, 1.0)
    yield traces.flush
    traces.configure("test", None, 1.0)


async def test_each_event_of_a_batch_goes_on_in_its_own_trace(
    consumer_database: Database, collector: Collector, tracing: Callable[[], None]
) -> None:
    wanted = [Traced(collector) for _ in range(3)]
    parents = [f"00-{trace.id}-00f067aa0ba902b7-01" for trace in wanted]
    quiet = f"00-{new_id().int:032x}-00f067aa0ba902b7-00"
    places: list[str | None] = []

    async def answer(tx: Transaction, received: Sequence[Received[PlanPublished]]) -> None:
        places.append(traces.here())
        if any(item.event.price.amount_minor < 0 for item in received):
            raise ValueError("a price below nothing")
        answers = [Outgoing(PlanChanged(**dict(item.event)), 1, item.envelope) for item in received]
        await publish(tx, answers, source="/test", clock=SystemClock())

    loop = PartitionLoop(
        Subscription(f"test-{new_id()}", [topics.BILLING_PLAN], {PlanPublished: answer}), consumer_database
    )
    batch = [record(index, parent) for index, parent in enumerate([parents[0], quiet, None, "malformed", parents[1]])]
    assert [offset async for offset in loop.handle(batch)] == [5]
    tracing()
    for trace in wanted[:2]:
        spans = await trace.until("send billing.plan.v1")
        assert tree(spans) == ANSWERED
        assert spans[0].attributes["messaging.batch.message_count"] == 5
    assert collector.trace(quiet[3:35]) == []
    assert places == [None]  # a batch of many traces belongs to none

    # A batch that fails is handled again, one by one: only that is told, and what was undone was never created.
    batch = [record(5, parents[2]), record(6, parents[1], price=-1), record(7, quiet)]
    assert [offset async for offset in loop.handle(batch)] == [6, 7, 8]
    tracing()
    assert tree(await wanted[2].until("send billing.plan.v1")) == ANSWERED
    failed = [span for span in wanted[1].spans if span.failed]
    assert [(span.name, span.attributes["error.type"]) for span in failed] == [
        ("process billing.plan.v1", "ValueError")
    ]
    assert places[1] is None
    assert places[-1] == quiet  # alone, an event is in its own trace, also where that leaves no spans


async def scrape(stack: Stack, process: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of a process by name and labels."""
    async with aiohttp.ClientSession() as session, session.get(f"{stack.url(process)}/metrics") as answer:
        text = await answer.text()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def sample(stack: Stack, process: str, name: str, **labels: str) -> float:
    return (await scrape(stack, process)).get((name, frozenset(labels.items())), 0.0)


async def a_month(tenant: Tenant) -> dict[str, Any]:
    """Let a customer come, be billed, pay and leave; return the invoice."""
    reference = f"M-{new_id()}"
    customer = await tenant.api.send("POST", f"{V1}/customers", {"name": "Grace", "external_reference": reference})
    customer_id = customer.expect(201)["id"]
    taken = await tenant.api.send("POST", f"{V1}/customers", {"name": "Other", "external_reference": reference})
    taken.problem(409, "reference-taken")

    async def account() -> dict[str, Any] | None:
        answer = await tenant.api.send("GET", f"{V1}/billing-accounts", params={"customer_id": customer_id})
        items = answer.expect(200)["items"]
        return items[0] if items else None

    account_id = (await eventually(account))["id"]
    plan = (await tenant.api.send("GET", f"{V1}/plans")).expect(200)["items"][0]
    order = {"customer_id": customer_id, "plan_code": plan["code"]}
    (await tenant.api.send("POST", f"{V1}/subscriptions/bulk", {"items": [order]})).expect(200)
    run = (await tenant.api.send("POST", f"{V1}/billing-runs", {"period": this_month()})).expect(202)

    async def billed() -> bool:
        state = (await tenant.api.send("GET", f"{V1}/billing-runs/{run['id']}")).expect(200)
        return bool(state["status"] == "completed")

    await eventually(billed)
    invoices = await tenant.api.send("GET", f"{V1}/invoices", params={"account_id": account_id})
    invoice: dict[str, Any] = invoices.expect(200)["items"][0]
    payment = {"account_id": account_id, "amount": invoice["total"], "method": "card"}
    (await tenant.api.send("POST", f"{V1}/payments", payment)).expect(201)
    (await tenant.api.send("POST", f"{V1}/customers/{customer_id}/terminate", {"reason": "moved"})).expect(200)
    return invoice


async def test_business_is_counted_when_it_is_committed_and_only_then(stack: Stack, tenant: Tenant) -> None:
    async def figures() -> list[float]:
        return [
            await sample(stack, "customer", "dotmac_customers_created_total", status="active"),
            await sample(stack, "customer", "dotmac_customers_terminated_total"),
            await sample(stack, "customer", "dotmac_events_published_total", event="customer.CustomerCreated"),
            await sample(stack, "billing", "dotmac_invoices_issued_total", currency="USD"),
            await sample(stack, "billing", "dotmac_payments_received_total", currency="USD"),
            await sample(stack, "billing", "dotmac_invoiced_amount_total", currency="USD"),
            await sample(stack, "billing", "dotmac_received_amount_total", currency="USD"),
        ]

    before = await figures()
    invoice = await a_month(tenant)  # in which a second customer is refused: it was inserted, and undone
    amount = invoice["total"]["amount_minor"] / 100
    changes = [after - earlier for after, earlier in zip(await figures(), before, strict=True)]
    assert changes == pytest.approx([1, 1, 1, 1, 1, amount, amount])


async def test_labels_are_bounded_whatever_a_client_sends(
    stack: Stack, tenant: Tenant, http: aiohttp.ClientSession
) -> None:
    headers = {"Authorization": f"Bearer {tenant.api.token}"}
    for url in (stack.gateway_url, stack.url("customer")):
        for method, path in (
            ("PROPFIND", f"{V1}/customers"),
            ("GET", f"{V1}/nothing/{new_id()}"),
            ("GET", f"/{new_id()}"),
        ):
            async with http.request(method, url + path, headers=headers) as answer:
                assert answer.status in (404, 405, 501)
    for service in ("gateway", *SERVICES):
        text = str(await scrape(stack, service))
        assert tenant.id not in text
        assert "PROPFIND" not in text
        assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", text)


async def test_lag_counts_events_that_were_read_and_wait_for_the_database(stack: Stack, tenant: Tenant) -> None:
    labels = {"consumer": "billing-customers", "topic": "customer.customer.v1"}

    async def lag() -> float:
        return await sample(stack, "billing", "dotmac_consumer_lag", **labels)

    await published(stack)
    await all_handled(stack.kafka)  # else what others wrote waits as well
    owner = await asyncpg.connect(stack.database_url("billing", "owner"))
    try:
        async with owner.transaction():
            await owner.execute("lock table billing_account in access exclusive mode")
            for _ in range(3):
                (await tenant.api.send("POST", f"{V1}/customers", {"name": "Waits"})).expect(201)

            async def behind() -> bool:
                return await lag() == 3

            await eventually(behind)
    finally:
        await owner.close()

    async def caught_up() -> bool:
        return await lag() == 0

    await eventually(caught_up)


async def test_an_old_snapshot_that_holds_back_vacuum_shows(stack: Stack, consumer_database: Database) -> None:
    async def dead_rows() -> float:
        return await sample(stack, "billing", "dotmac_outbox_dead_rows", service="billing")

    async def churn() -> None:
        async with consumer_database.for_tenants([PLATFORM_TENANT]) as tx:
            price = Money(amount_minor=1, currency="USD")
            plans = (new_id() for _ in range(1000))
            events = [
                PlanChanged(plan_id=plan, tenant_id=PLATFORM_TENANT, code="B", name="B", price=price) for plan in plans
            ]
            await publish(tx, [Outgoing(event, 1) for event in events], source="/test", clock=SystemClock())

    watch = await asyncpg.connect(stack.database_url("billing", "relay"))
    old = await asyncpg.connect(stack.database_url("billing", "relay"))
    try:
        async with old.transaction(isolation="repeatable_read"):
            await old.fetchval("select count(*) from outbox")
            vacuums = "select autovacuum_count from pg_stat_user_tables where relname = 'outbox'"
            for _ in range(5):
                await churn()

            async def held() -> bool:
                return await dead_rows() >= 4000

            await eventually(held)
            before = await watch.fetchval(vacuums)

            async def vacuumed() -> bool:
                return bool(await watch.fetchval(vacuums) > before)

            await eventually(vacuumed)
            assert await dead_rows() >= 4000  # and it could not help
        await churn()

        async def cleared() -> bool:
            return await dead_rows() < 2000

        await eventually(cleared)
    finally:
        await old.close()
        await watch.close()


class Prometheus:
    """A real one, and the questions that can be asked of it."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def ask(self, path: str, **params: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(f"{self._url}{path}", params=params) as answer:
            body = await answer.json()
            assert body["status"] == "success", (params, body)
            return body["data"]

    async def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        data = await self.ask("/api/v1/query", query=expression)
        assert data["resultType"] == "vector", expression
        return [(item["metric"], float(item["value"][1])) for item in data["result"]]

    async def scraped(self, times: int = 2) -> None:
        """Return once each process was scraped so many times more."""
        before = dict(await self._samples())

        async def more() -> bool:
            now = dict(await self._samples())
            return len(now) == 1 + len(SERVICES) and all(
                count >= before.get(name, 0) + times for name, count in now.items()
            )

        await eventually(more)

    async def _samples(self) -> list[tuple[str, float]]:
        found = await self.query("count_over_time((up{job='dotmac'} == 1)[1h:1s])")
        return [(labels["instance"], count) for labels, count in found]


@pytest.fixture(scope="module")
async def prometheus(stack: Stack) -> AsyncIterator[Prometheus]:
    """Prometheus with the configuration of the repository, on the test's stack, scraping every second."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("there is no prometheus here (Debian's package of that name has it)")
    with tempfile.TemporaryDirectory(prefix="dotmac-prometheus-") as name:
        folder, port = Path(name), free_port()
        configuration = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())
        configuration["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
        (job,) = configuration["scrape_configs"]
        job["file_sd_configs"][0]["files"] = [str(stack.folder / "targets.json")]
        shutil.copy(OBSERVABILITY / "alerts.yml", folder)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address=127.0.0.1:{port}"]
        child = Child("prometheus", command, {}, folder / "log")
        await child.start()
        running = Prometheus(f"http://127.0.0.1:{port}")
        try:

            async def answers() -> bool:
                child.raise_if_dead()
                try:
                    return len(await running.query("up{job='dotmac'} == 1")) == 1 + len(SERVICES)
                except aiohttp.ClientError:
                    return False

            await eventually(answers)
            yield running
        finally:
            await child.stop()


def dashboards() -> list[tuple[str, str]]:
    """Return every question of every dashboard: its panel, and the expression."""
    return [
        (f"{file.stem}: {panel['title']}", target["expr"])
        for file in sorted((OBSERVABILITY / "grafana" / "dashboards").glob("*.json"))
        for panel in json.loads(file.read_text())["panels"]
        for target in panel.get("targets", ())
    ]


def alerts() -> dict[str, str]:
    groups = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


async def a_dead_letter(stack: Stack) -> int:
    """Send what no consumer can read; return its dead letter's id."""
    key = str(new_id()).encode()
    async with AIOKafkaProducer(bootstrap_servers=stack.kafka) as producer:
        await producer.send_and_wait(topics.CUSTOMER.name, b"{not json", key, headers=[])
    database = Database(stack.database_url("billing", "consumer"), pool_size=1)
    await database.connect()
    try:

        async def kept() -> int | None:
            async with database.unscoped() as tx:
                found: int | None = await tx.fetchval("select id from dead_letter where key = $1", key)
                return found

        return await eventually(kept)
    finally:
        await database.close()


async def test_prometheus_has_an_answer_to_every_question_of_dashboards_and_alerts(
    stack: Stack, tenant: Tenant, public: Api, platform: Api, prometheus: Prometheus
) -> None:
    await prometheus.scraped(1)
    open_before = await sample(stack, "billing", "dotmac_dead_letters_open", consumer="billing-customers")
    await deploy(public, platform)
    await a_month(tenant)
    letter = await a_dead_letter(stack)

    async def shows() -> bool:
        now = await sample(stack, "billing", "dotmac_dead_letters_open", consumer="billing-customers")
        return now == open_before + 1

    await eventually(shows)
    await prometheus.scraped()
    unanswered = []
    for panel, expression in dashboards():
        asked = expression.replace("$__rate_interval", "10m").replace("$__range", "1h")
        found = await prometheus.query(asked)
        if not any(math.isfinite(value) for _, value in found):
            unanswered.append((panel, asked, found))
    assert unanswered == []

    names = set(await prometheus.ask("/api/v1/label/__name__/values"))
    firing = {}
    for alert, expression in alerts().items():
        assert set(re.findall(r"\b(?:dotmac_\w+|up)\b", expression)) <= names, alert
        for selector in re.findall(r"\b(?:dotmac_\w+|up)\{[^}]*\}", expression):
            # What an alert looks at must be there while all is well: a label with another name would never fire.
            if selector.count('status=~"5.."') == 0:
                assert await prometheus.query(selector) != [], (alert, selector)
        firing[alert] = await prometheus.query(expression)
    assert ({"consumer": "billing-customers"}, open_before + 1) in firing["DeadLetters"]
    quiet = ("ProcessDown", "DatabaseDown", "BrokerDown", "PartNotWell", "RelayWithoutLeader", "DeploymentFailed")

    async def all_well() -> bool:  # for a moment is enough, as each has to be so for minutes before it is told
        return not any([await prometheus.query(alerts()[alert]) for alert in quiet])

    await eventually(all_well)
    rules = [rule for group in (await prometheus.ask("/api/v1/rules"))["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == alerts().keys()
    assert [rule for rule in rules if rule["health"] == "err"] == []

    database = Database(stack.database_url("billing", "consumer"), pool_size=1)
    await database.connect()
    async with database.unscoped() as tx:
        assert await dead_letter.act(tx, letter, "discard", "test")
    await database.close()

    async def resolved() -> bool:
        found = {labels["consumer"]: many for labels, many in await prometheus.query(alerts()["DeadLetters"])}
        return found.get("billing-customers", 0) == open_before

    await eventually(resolved)


async def test_a_demo_knows_where_its_time_went(stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "subscribers.csv"
    generate(file, 200)
    mapping = read_mapping(MAPPING)
    meter = Meter.of_stack(stack.folder)
    quiet, month = Console(quiet=True), this_month()
    await Demo(stack.gateway_url, stack.kafka, stack.administrator, file, mapping, quiet, meter).run()
    meter.save(stack.folder)
    steps = {step.name: step for step in saved(stack.folder)}
    imported, billed = steps["import the customers"], steps[f"run billing for {month}"]
    assert imported.requests >= 2
    assert 0 < imported.busy["http"] <= imported.busy["gateway"]
    assert imported.busy["worker"] > 0
    assert billed.busy["worker"] > 0
    assert sum(step.events for step in steps.values()) > 200
    assert imported.events + steps["billing accounts opened"].events > 0
    assert any(step.busy["consumer"] > 0 for step in steps.values())
    assert all(0 <= step.waiting <= step.seconds for step in steps.values())
    shown = CliRunner().invoke(app, ["timings", "--folder", str(stack.folder)])
    assert shown.exit_code == 0
    assert all(name in shown.output for name in steps)


async def test_every_line_of_every_process_is_json_without_secrets_and_has_its_trace(
    stack: Stack, tenant: Tenant, collector: Collector
) -> None:
    trace = Traced(collector)
    answer = await tenant.api.send("POST", f"{V1}/customers", {"name": "Logged"}, headers=trace.headers)
    answer.expect(201)
    logs = stack.folder / "logs"

    async def written() -> bool:
        return trace.id in (logs / "gateway.log").read_text()  # it is, once the answer has ended

    await eventually(written)
    secrets = json.loads((stack.folder / "secrets.json").read_text()).values()
    found = {}
    for service in ("gateway", *SERVICES):
        text = (logs / f"{service}.log").read_text()
        # A line that is being written has no end yet: what this test follows was told before it.
        whole = text[: text.rindex("\n")]
        lines = [json.loads(line) for line in whole.splitlines()]
        assert all({"timestamp", "level", "event", "service"} <= line.keys() for line in lines)
        assert [secret for secret in secrets if secret in text] == []
        assert tenant.api.token not in text
        found[service] = [line["path"] for line in lines if line.get("trace_id") == trace.id]
    assert found["gateway"] == found["customer"] == [f"{V1}/customers"]
