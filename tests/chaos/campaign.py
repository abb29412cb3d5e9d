"""Rounds of crashes and faults under load, drawn from a seed, each judged by the checker."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import aiohttp
import asyncpg
from rich.console import Console
from rich.table import Table

from cli.client import API
from deploy.stack.processes import Child, Say
from tests.api import eventually
from tests.chaos.checker import SERVICES, WRITERS, Evidence, Violation, read, settled, violations
from tests.chaos.instrumented import POINTS
from tests.chaos.load import Load
from tests.chaos.platform import PROCESSES, Platform, process_of

T = TypeVar("T")

_FLUSH_SECONDS = 0.1
_LINE_SECONDS = 0.03
_REACHED_SECONDS = 60.0
_SETTLED_SECONDS = 120.0
_RANDOM_KILLS = 6
_KILLED = 3

# A relay that has nothing to send comes to no point.
_CONSUMERS = [process_of(service, "consumer") for service in SERVICES]
_RELAYS = [process_of(service, "relay") for service in WRITERS]
_PLACES = {
    # What provisioning does by itself, and a billing run, are a worker's: it runs beside the consumer.
    "domain commit": ["tenant", "customer", "billing", "billing-consumer", "provisioning-consumer"],
    "send": _RELAYS,
    "acknowledgement": _RELAYS,
    "outbox delete": _RELAYS,
    "inbox insert": _CONSUMERS,
    "effect commit": _CONSUMERS,
    "offset commit": _CONSUMERS,
}
"""Which processes come to which points."""


@dataclass(frozen=True)
class Scene:
    """What a fault acts on. `chance` is the round's own."""

    platform: Platform
    load: Load
    chance: random.Random
    behind: int
    """By how many events a consumer falls behind."""

    async def while_it_lasts(self) -> None:
        """Let a fault stand for some seconds."""
        await asyncio.sleep(2 + self.chance.random() * 2)


async def _kafka_restarted(scene: Scene) -> None:
    """It is away for some seconds in between."""
    await scene.platform.kafka.stop()
    await scene.while_it_lasts()
    await scene.platform.start_kafka()


async def _kafka_killed(scene: Scene) -> None:
    assert scene.platform.kafka.child
    scene.platform.kafka.child.kill()
    await scene.while_it_lasts()


async def _kafka_cut(scene: Scene) -> None:
    scene.platform.kafka_line.cut()
    await scene.while_it_lasts()
    scene.platform.kafka_line.mend()


async def _kafka_slowed(scene: Scene) -> None:
    scene.platform.kafka_line.slow(_LINE_SECONDS * 10)
    await scene.while_it_lasts()
    scene.platform.kafka_line.mend()


async def _postgres_restarted(scene: Scene) -> None:
    """In order: it ends every session first."""
    scene.platform.signal_postgres(signal.SIGINT)
    await scene.while_it_lasts()


async def _postgres_killed(scene: Scene) -> None:
    """It recovers from its log, and has forgotten what nobody waited for to reach the disk."""
    scene.platform.signal_postgres(signal.SIGKILL)
    await scene.while_it_lasts()


async def _postgres_connections_dropped(scene: Scene) -> None:
    """By the server, again and again, and then by the network."""
    for _ in range(5):
        async with _superuser(scene) as connection:
            await connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where datname like 'dotmac%'"
                " and pid <> pg_backend_pid()"
            )
        await asyncio.sleep(scene.chance.random() / 2)
    scene.platform.postgres_line.cut()
    await scene.while_it_lasts()
    scene.platform.postgres_line.mend()


async def _postgres_slowed(scene: Scene) -> None:
    """The line: each statement takes 60 ms longer."""
    scene.platform.postgres_line.slow(_LINE_SECONDS)
    await scene.while_it_lasts()
    scene.platform.postgres_line.mend()


async def _disk_slowed(scene: Scene) -> None:
    """PostgreSQL waits before each flush of its log, holding the lock of it, as it would for a disk that is slow."""

    async def delayed(by_seconds: float) -> None:
        for name, value in {"commit_delay": round(by_seconds * 1e6), "commit_siblings": 0 if by_seconds else 5}.items():
            await connection.execute(f"alter system set {name} = {value}")
        await connection.execute("select pg_reload_conf()")

    async with _superuser(scene) as connection:
        await delayed(_FLUSH_SECONDS)
        try:

            async def felt() -> bool:
                started = time.monotonic()
                await connection.execute("select pg_logical_emit_message(true, 'disk', '')")
                return time.monotonic() - started >= _FLUSH_SECONDS

            await eventually(felt)
            await scene.while_it_lasts()
        finally:
            await delayed(0)


async def _two_leaders(scene: Scene) -> None:
    """A second relay of each of two services takes itself for the leader while the first one leads."""
    first, second = scene.chance.sample(WRITERS, 2)
    async with (
        scene.platform.companion(first, "relay", LEADS_REGARDLESS="1") as one,
        scene.platform.companion(second, "relay", LEADS_REGARDLESS="1") as other,
    ):
        await asyncio.gather(*(_takes_part(scene, child, "dotmac_relay_events_total{") for child in (one, other)))
        await scene.while_it_lasts()


async def _member_killed(scene: Scene) -> None:
    """Of two members of a consumer group one is killed: its partitions come to the other."""
    async with scene.platform.companion("billing", "consumer") as child:
        await _takes_part(scene, child, 'dotmac_consumer_events_total{consumer="billing-customers"')
        child.kill()
        await scene.while_it_lasts()


async def _takes_part(scene: Scene, child: Child, metric: str) -> None:
    """Return once a process has counted something."""
    async with aiohttp.ClientSession() as http:

        async def counted() -> bool:
            async with http.get(f"{scene.platform.stack.url(child.name)}/metrics") as answer:
                lines = (await answer.text()).splitlines()
            return any(line.startswith(metric) and float(line.rpartition(" ")[2]) for line in lines)

        await eventually(counted)


async def _falls_behind(scene: Scene) -> None:
    """A consumer is away while so many customers are imported, and comes back."""
    platform, tenant = scene.platform, scene.load.isps[0].tenant
    consumer = platform.stack.children["billing-consumer"]
    await consumer.stop()
    names = (f"{tenant.slug}-behind-{scene.chance.getrandbits(64):x}" for _ in range(scene.behind))
    content = "external_reference,name\n" + "".join(f"{name},{name}\n" for name in names)
    path = f"{API}/customers/imports"
    headers = {"Content-Type": "text/csv", "Idempotency-Key": f"behind-{scene.chance.getrandbits(64):x}"}

    async def asked(method: str, path: str, **options: Any) -> Any:
        try:
            return await tenant.api.send(method, path, **options)
        except (aiohttp.ClientError, OSError):  # the gateway may be killed as well
            return None

    async def accepted() -> Any:
        answer = await asked("POST", path, raw=content.encode(), headers=headers)
        return answer.body if answer and answer.status == 202 else None

    job = await eventually(accepted)

    async def imported() -> Any:
        answer = await asked("GET", f"{path}/{job['id']}")
        return answer.body if answer and answer.status == 200 and answer.body["status"] == "completed" else None

    assert (await eventually(imported, seconds=600))["created"] == scene.behind
    await consumer.start()
    consumer.keep_alive(platform.say)


FAULTS: dict[str, Callable[[Scene], Awaitable[None]]] = {
    "kafka restarted": _kafka_restarted,
    "kafka killed": _kafka_killed,
    "kafka cut off": _kafka_cut,
    "kafka slowed": _kafka_slowed,
    "postgres restarted": _postgres_restarted,
    "postgres killed": _postgres_killed,
    "postgres connections dropped": _postgres_connections_dropped,
    "postgres slowed": _postgres_slowed,
    "postgres disk slowed": _disk_slowed,
    "two leaders": _two_leaders,
    "group member killed": _member_killed,
}
BEHIND = "consumer falls behind"


@asynccontextmanager
async def _superuser(scene: Scene) -> AsyncIterator["asyncpg.Connection[Any]"]:
    connection = await asyncpg.connect(scene.platform.postgres.url)
    try:
        yield connection
    finally:
        await connection.close()


@dataclass(frozen=True)
class Crash:
    """A process that is to end at a passage of a point."""

    process: str
    point: str
    passage: int

    def __str__(self) -> str:
        return f"{self.process} {self.point}"


@dataclass(frozen=True)
class Round:
    """What happens in a round, at the same time: a crash at a point, or kills at some moments, and a fault."""

    seed: int
    crash: Crash | None
    kills: tuple[str, ...]
    fault: str

    def __str__(self) -> str:
        return f"{self.crash or ', '.join(self.kills)}; {self.fault}"


def schedule(rounds: int, seed: int) -> list[Round]:
    """Draw the rounds. Twenty hold every point, a kill of every process, and every fault at least once."""
    chance = random.Random(seed)
    processes, faults = _dealt(chance, [*PROCESSES, "gateway"]), _dealt(chance, list(FAULTS))
    places = {id(names): _dealt(chance, names) for names in _PLACES.values()}
    drawn = []
    for what, number in zip(_dealt(chance, [*POINTS, *[None] * _RANDOM_KILLS]), range(rounds), strict=False):
        fault = BEHIND if number == rounds - 1 else next(faults)
        crash = None
        if what is not None:
            process = next(places[id(_PLACES[what.partition(" ")[2]])])
            rare = process.startswith(("tenant", "provisioning"))
            crash = Crash(process, what, chance.randint(1, 2 if rare else 5))
        kills = () if crash else tuple(next(processes) for _ in range(_KILLED))
        drawn.append(Round(chance.getrandbits(32), crash, kills, fault))
    return drawn


def _dealt(chance: random.Random, cards: Sequence[T]) -> Iterator[T]:
    """Deal all cards in some order, then all of them again."""
    while True:
        yield from chance.sample(cards, len(cards))


@dataclass
class Result:
    """What came of a round."""

    round: Round
    seconds: float
    acknowledged: int
    events: int
    repeated: int
    """How many times an event was sent again."""
    violations: list[Violation]


async def play(platform: Platform, load: Load, planned: Round, behind: int) -> Result:
    """Do a round, and judge all that has happened so far."""
    started, before = time.monotonic(), load.acknowledged.total()
    scene = Scene(platform, load, random.Random(planned.seed), behind)
    async with load.running():
        await asyncio.gather(_crash(scene, planned), FAULTS.get(planned.fault, _falls_behind)(scene))
        await platform.ready()
        await load.served()
    evidence, found = await judged(platform, load)
    events = len({event.id for event in evidence.topics})
    return Result(
        planned,
        time.monotonic() - started,
        load.acknowledged.total() - before,
        events,
        len(evidence.topics) - events,
        found,
    )


async def judged(platform: Platform, load: Load) -> tuple[Evidence, list[Violation]]:
    """Wait until nothing is on its way any more; return what was left, and what is wrong with it."""
    left = await settled(platform.databases, platform.bootstrap_servers, _SETTLED_SECONDS)
    evidence = await read(platform.databases, platform.bootstrap_servers)
    late = f"after {_SETTLED_SECONDS:.0f} s there is left: {dict(left)}"
    return evidence, [*([Violation("undelivered", late)] if left else []), *violations(evidence, load.told)]


async def _crash(scene: Scene, planned: Round) -> None:
    if crash := planned.crash:
        reached = await scene.platform.crash(crash.process, crash.point, crash.passage, _REACHED_SECONDS)
        assert reached, f"{crash} was not reached in {_REACHED_SECONDS:.0f} s: nothing was tested"
    for name in planned.kills:
        await asyncio.sleep(scene.chance.random())
        scene.platform.stack.children[name].kill()


async def campaign(platform: Platform, load: Load, planned: Sequence[Round], behind: int, say: Say) -> list[Result]:
    """Play rounds until all are played or one has violations."""
    results: list[Result] = []
    for number, item in enumerate(planned, 1):
        say(f"round {number} of {len(planned)}: {item}")
        results.append(await play(platform, load, item, behind))
        if results[-1].violations:
            break
    return results


def report(results: Sequence[Result], load: Load) -> str:
    """Return a table of the rounds, their sums, and what is wrong."""
    table = Table("round", "crash or kills", "fault", *(name for name in ("s", "writes", "events", "violations")))
    events = 0
    for number, result in enumerate(results, 1):
        numbers = (f"{result.seconds:.0f}", f"{result.acknowledged:,}", f"{result.events - events:,}")
        who = str(result.round.crash or ", ".join(result.round.kills))
        table.add_row(str(number), who, result.round.fault, *numbers, f"{len(result.violations):,}")
        events = result.events
    console = Console(width=120)
    with console.capture() as captured:
        console.print(table)
    found = [violation for result in results for violation in result.violations]
    crashes = sum(1 for result in results if result.round.crash)
    kills = sum(len(result.round.kills) for result in results)
    sums = (
        f"{len(results)} rounds, {crashes} crashes at points, {kills} kills, {len(results)} faults;"
        f" {load.acknowledged.total():,} acknowledged writes ({load.repeated:,} requests repeated),"
        f" {events:,} events, of which {results[-1].repeated if results else 0:,} were sent again;"
        f" {len(found):,} violations"
    )
    return "\n".join([captured.get(), sums, *(f"  {it.kind}: {it.where}" for it in found[:50])])
