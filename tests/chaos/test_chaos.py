"""The chaos suite. `make test-chaos` plays many rounds; as part of the other tests it plays a few.

Options, from the environment:
  ROUNDS   rounds to play; twenty and more hold every point and fault      SEED   what they are drawn from: without
  it the same at each run of the tests, so that what fails tells of a change, and others for `make test-chaos`
  BEHIND   events by which a consumer falls behind                         OUTAGE seconds for which Kafka is away
"""

import asyncio
import itertools
import os
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient

from chassis.messaging.broker import ensure_topics
from deploy.roles import SERVICES
from deploy.stack.processes import Say
from tests.api import eventually
from tests.chaos.campaign import BEHIND, FAULTS, campaign, judged, report, schedule
from tests.chaos.checker import read
from tests.chaos.instrumented import POINTS
from tests.chaos.load import Load
from tests.chaos.platform import PROCESSES, Platform

ROUNDS = int(os.environ.get("ROUNDS") or 2)
SEED = int(os.environ.get("SEED") or 1)
EVENTS_BEHIND = int(os.environ.get("BEHIND") or 5_000)
OUTAGE_SECONDS = float(os.environ.get("OUTAGE") or 12)

_ROUND_SECONDS = 120
# The first of an outage is not counted: connections are made anew, and what was under way is kept.
_FLAT_BYTES = 24 * 1024 * 1024


def test_twenty_rounds_hold_every_point_process_and_fault() -> None:
    for seed in range(50):
        rounds = schedule(20, seed)
        assert {it.crash.point for it in rounds if it.crash} == set(POINTS)
        assert {name for it in rounds for name in it.kills} == {*PROCESSES, "gateway"}
        assert {it.fault for it in rounds} == {*FAULTS, BEHIND}
    assert schedule(20, 1) == schedule(20, 1) != schedule(20, 2)


@pytest.mark.timeout(300 + ROUNDS * _ROUND_SECONDS)
async def test_no_crash_and_no_fault_breaks_a_law(platform: Platform, load: Load, say: Say) -> None:
    say(f"SEED={SEED} ROUNDS={ROUNDS}")
    results = await campaign(platform, load, schedule(ROUNDS, SEED), EVENTS_BEHIND, say)
    said = report(results, load)
    say(f"\n{said}")
    assert not any(result.violations for result in results), f"SEED={SEED} ROUNDS={ROUNDS}\n{said}"


@pytest.mark.timeout(300 + OUTAGE_SECONDS)
async def test_writes_are_accepted_in_flat_memory_while_kafka_is_away_and_told_in_order_afterwards(
    platform: Platform, load: Load, say: Say
) -> None:
    processes = list(platform.stack.children)
    async with load.running(writers=2):
        await load.served()

        async def all_ready() -> bool:
            return {await _readiness(platform, name) for name in processes} == {200}

        await eventually(all_ready)
        await platform.kafka.stop()
        away = datetime.now(UTC)
        resident: dict[str, list[int]] = {name: [] for name in processes}
        accepted = []
        for _ in range(round(OUTAGE_SECONDS)):
            before = load.acknowledged["customers"]
            await asyncio.sleep(1)
            accepted.append(load.acknowledged["customers"] - before)
            for name in processes:
                resident[name].append(_resident_bytes(platform, name))
        # Who needs the broker for its own job says so; an API goes on without.
        said = {name: await _readiness(platform, name) for name in processes}
        assert said == {name: 503 if name.endswith(("consumer", "relay")) else 200 for name in processes}
        waiting = await _outboxes(platform)
        back = datetime.now(UTC)
        await platform.start_kafka()
        await platform.ready()
        await load.served()
    # A disk may be busy for a second; whoever needs the broker stands still for all of it.
    lately = map(sum, zip(accepted, accepted[1:], accepted[2:], strict=False))
    assert min(lately) > 0, f"customers that were accepted each second: {accepted}"
    assert waiting["customer"] >= sum(accepted), "what was accepted waited"
    # What a process takes in its first seconds without a broker, and what it has at the end.
    grown = {name: max(sizes[len(sizes) // 2 :]) - max(sizes[: len(sizes) // 4]) for name, sizes in resident.items()}
    assert max(grown.values()) < _FLAT_BYTES, f"bytes that processes grew by: {grown}"
    _, wrong = await judged(platform, load)
    assert wrong == []
    told = await _order(platform, away + timedelta(seconds=1), back - timedelta(seconds=1))
    assert sum(map(len, told.values())) > sum(accepted) / 2
    assert all(ids == sorted(ids) for ids in told.values()), "the outbox is emptied in its order"
    say(
        f"Kafka was away for {OUTAGE_SECONDS:.0f} s: {sum(accepted):,} customers accepted, at least {min(accepted)} a"
        f" second; {waiting.total():,} events waited; the process that grew most did by"
        f" {max(grown.values()) / 2**20:.1f} MiB"
    )


async def _readiness(platform: Platform, name: str) -> int:
    async with aiohttp.ClientSession() as http, http.get(f"{platform.stack.url(name)}/health/ready") as answer:
        return answer.status


def _resident_bytes(platform: Platform, name: str) -> int:
    pages = Path(f"/proc/{platform.stack.children[name].pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


async def _outboxes(platform: Platform) -> Counter[str]:
    return Counter({name: (await _ask(platform, name, "select count(*) from outbox"))[0][0] for name in SERVICES})


async def _order(platform: Platform, since: datetime, until: datetime) -> dict[tuple[str, int], list[int]]:
    """Return the outbox's ids of the customers' events of a time, by partition and in its order."""
    rows = await _ask(
        platform,
        "customer",
        "select topic, partition, outbox_id from journal where (headers->>'ce_time')::timestamptz between $1 and $2"
        ' order by topic, partition, "offset"',
        since,
        until,
    )
    grouped = itertools.groupby(rows, key=lambda row: (row["topic"], row["partition"]))
    return {place: [row["outbox_id"] for row in group] for place, group in grouped}


async def _ask(platform: Platform, service: str, sql: str, *args: Any) -> list[Any]:
    connection = await asyncpg.connect(platform.databases[service])
    try:
        return list(await connection.fetch(sql, *args))
    finally:
        await connection.close()


@pytest.mark.timeout(900)
async def test_a_broker_that_lost_everything_is_filled_from_the_journals(
    platform: Platform, load: Load, say: Say
) -> None:
    began = datetime.now(UTC) - timedelta(days=1)
    async with load.running():
        await load.served()
    _, wrong = await judged(platform, load)
    assert wrong == []
    # Billing has yet to read of many customers when the broker is lost.
    consumer = platform.stack.children["billing-consumer"]
    await consumer.stop()
    before = _created(load)
    async with load.running(writers=2):
        await eventually(_true(lambda: _created(load) >= before + 200))
    await eventually(_published(platform))
    unread = await read(platform.databases, platform.bootstrap_servers)
    missing = {event.id for event in unread.topics if event.type == "CustomerCreated"}
    missing -= unread.inbox["billing-customers"]
    assert len(missing) >= 200

    admin = AIOKafkaAdminClient(bootstrap_servers=platform.bootstrap_servers)
    await admin.start()
    try:
        names = await admin.list_topics()
        await admin.delete_topics([name for name in names if not name.startswith("__")])
        await eventually(_emptied(admin))
    finally:
        await admin.close()
    await ensure_topics(platform.bootstrap_servers)

    await _republish(platform, began)
    await consumer.start()
    consumer.keep_alive(platform.say)
    await platform.stack.wait_ready("billing-consumer")
    state, wrong = await judged(platform, load)
    assert wrong == []
    assert missing <= state.inbox["billing-customers"]
    await _republish(platform, began)  # to no effect: everybody has handled everything
    again, wrong = await judged(platform, load)
    assert wrong == []
    assert (again.rows, again.inbox) == (state.rows, state.inbox)
    assert len(again.topics) == 2 * len(state.topics)
    say(f"the topics were deleted with {len(missing):,} events unread: published again from the journals, all handled")
    # And it goes on from there.
    async with load.running():
        await load.served()
    _, wrong = await judged(platform, load)
    assert wrong == []


def _created(load: Load) -> int:
    return sum(told["type"] == "CustomerCreated" for told in load.told.events)


def _true(probe: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return probe()

    return asked


def _published(platform: Platform) -> Callable[[], Awaitable[bool]]:
    async def none_waits() -> bool:
        return not (await _outboxes(platform)).total()

    return none_waits


def _emptied(admin: AIOKafkaAdminClient) -> Callable[[], Awaitable[bool]]:
    async def gone() -> bool:
        return not [name for name in await admin.list_topics() if not name.startswith("__")]

    return gone


async def _republish(platform: Platform, since: datetime) -> None:
    """Run the command for each service, as an operator does."""

    async def of(service: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", "cli", "journal", "republish", "--since", since.isoformat()],
            env={
                **os.environ,
                "RELAY_DATABASE_URL": platform.stack.database_url(service, "relay"),
                "KAFKA_BOOTSTRAP_SERVERS": platform.bootstrap_servers,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, said.decode()

    await asyncio.gather(*map(of, SERVICES))
