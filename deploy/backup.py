"""Backs up the databases of all services at one moment, and takes the platform back to it: docs/operations/backup.md.

The moment is one at which no event is being published or handled anywhere: what a service knows from another's event,
the other knows as well. What was on its way then stands in the sender's outbox or journal, and is sent again.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import asyncpg

from chassis.messaging import broker, journal
from chassis.messaging.security import client_security
from chassis.persistence.schema import confinement
from chassis.settings import Settings
from deploy.roles import LOGINS, SERVICES, login
from deploy.stack import postgres
from deploy.stack.processes import StackError

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Say = Callable[[str], None]

_FORMAT = 1
_MANIFEST = "manifest.json"
_FENCE_SECONDS = 2
_ATTEMPTS = 10
# The order of a consumer's transaction, so that the fence waits for it and never the other way round too.
_FENCE = "lock table inbox, outbox in share mode"


class BackupError(Exception):
    """It can't be done; the message says why, and what was left as it was."""


@dataclass(frozen=True)
class Dump:
    """One database in a backup."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Backup:
    """What was backed up, and the moment that it shows."""

    moment: datetime
    databases: dict[str, Dump]


def databases(server_url: str) -> dict[str, str]:
    """Return the address of each service's database on a server, with the login of the server's address."""
    server = urlsplit(server_url)
    return {service: urlunsplit(server._replace(path=f"/dotmac_{service}")) for service in SERVICES}


async def create(server_url: str, folder: Path, say: Say) -> Backup:
    """Dump every database as it was at one moment into a new folder, while the platform runs. As a superuser."""
    _new(folder)
    urls = databases(server_url)
    async with _snapshots(urls, say) as (moment, snapshots):
        dumps = await _all({service: _dump(urls[service], snapshots[service], folder, say) for service in urls})
    backup = Backup(moment, dumps)
    kept = {"format": _FORMAT, "moment": moment.isoformat(), "databases": {s: asdict(d) for s, d in dumps.items()}}
    # Last, so that a backup that was broken off is none.
    (folder / _MANIFEST).write_text(json.dumps(kept, indent=1) + "\n")
    return backup


def _new(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise BackupError(f"{folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def read(folder: Path) -> Backup:
    """Return what a folder holds; BackupError unless it is all there, as it was written."""
    try:
        kept = json.loads((folder / _MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise BackupError(f"{folder} holds no complete backup: {error}") from error
    if kept["format"] != _FORMAT or kept["databases"].keys() != set(SERVICES):
        raise BackupError(f"{folder} is a backup of another release: format {kept['format']}, {[*kept['databases']]}")
    dumps = {service: Dump(**dump) for service, dump in kept["databases"].items()}
    for dump in dumps.values():
        path = folder / dump.file
        if not path.exists() or _sha256(path) != dump.sha256:
            raise BackupError(f"{path} is missing or damaged")
    return Backup(datetime.fromisoformat(kept["moment"]), dumps)


async def restore(server_url: str, folder: Path, say: Say) -> Backup:
    """Put the databases of a backup in place of those there are. As a superuser, with every service stopped.

    Each is restored beside the one it replaces, and they are exchanged only when all of them are whole.
    """
    backup = await asyncio.to_thread(read, folder)
    connection = await asyncpg.connect(server_url)
    try:
        await _check_server(connection)
        for service in SERVICES:
            await connection.execute(f"drop database if exists {_beside(service)} with (force)")
            await connection.execute(f"create database {_beside(service)} owner {login(service, 'owner')}")
        await _all(
            {
                service: _run("pg_restore", server_url, _beside(service), [str(folder / dump.file), *_RESTORE])
                for service, dump in backup.databases.items()
            }
        )
        say("every database is whole; putting them in place")
        await _check_server(connection)
        for service in SERVICES:
            name = f"dotmac_{service}"
            await connection.execute(f"drop database if exists {name}")
            await connection.execute(f"alter database {_beside(service)} rename to {name}")
            for statement in confinement(name):
                await connection.execute(statement)
    except asyncpg.PostgresError as error:
        raise BackupError(f"the databases are not restored: {error}") from error
    finally:
        await connection.close()
    return backup


async def replay(
    urls: Mapping[str, str], settings: Settings, moment: datetime, say: Say, *, since: datetime | None = None
) -> int:
    """Have events continue from the moment that the databases were restored to, with every service stopped.

    What the broker still holds is of a future that is no more, and is deleted. Then each journal is published again
    from `since`, or as far back as inboxes remember: what was on its way at the moment arrives, the rest is recognised.
    urls: each service's database, as its owner or a superuser. Returns the number of events.
    """
    since = since or moment - journal.REACH
    journal.check_reach(since, moment)
    security = client_security(settings)
    await broker.ensure_topics(settings.kafka_bootstrap_servers, security=security)
    say("deleting what the broker holds")
    await broker.forget_records(settings.kafka_bootstrap_servers, security=security)
    for url in urls.values():
        await _adapt(url)
    total = 0
    for service, url in urls.items():
        count = await journal.republish(url, settings, since)
        say(f"{service}: {count:,} events published again")
        total += count
    return total


async def _adapt(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            # An inbox forgets by the clock, which went on: it is to remember from now on for as long as ever.
            await connection.execute("update inbox set received_at = now()")
            # A dead letter is known by its place in the broker, which gives those places out anew.
            await connection.execute('update dead_letter set "offset" = -id where "offset" >= 0')
    finally:
        await connection.close()


@contextlib.asynccontextmanager
async def _snapshots(urls: Mapping[str, str], say: Say) -> AsyncIterator[tuple[datetime, dict[str, str]]]:
    """Give a snapshot of each database, all of one moment at which nobody publishes or handles an event."""
    async with contextlib.AsyncExitStack() as stack:
        fences: dict[str, Connection] = {}
        snapshots: dict[str, Connection] = {}
        for service, url in urls.items():
            for role in (fences, snapshots):
                role[service] = await asyncpg.connect(url, server_settings={"application_name": "dotmac-backup"})
                stack.push_async_callback(role[service].close)
        started = time.perf_counter()
        await _fence(list(fences.values()))
        # All fences stand. A snapshot taken now holds whatever anybody can have acted on, and nothing of what follows.
        exported: dict[str, str] = {}
        for service, connection in snapshots.items():
            await connection.execute("begin isolation level repeatable read, read only")
            exported[service] = await connection.fetchval("select pg_export_snapshot()")
        moment = await next(iter(snapshots.values())).fetchval("select clock_timestamp()")
        await asyncio.gather(*(fence.execute("commit") for fence in fences.values()))
        held = (time.perf_counter() - started) * 1000
        say(
            f"the moment is {moment.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC; who published was held for {held:.0f} ms"
        )
        yield moment.astimezone(UTC), exported


async def _fence(connections: list[Connection]) -> None:
    """Hold off whoever publishes or handles events, in all databases at once; wait for none of them for long."""
    begin = f"begin; set local lock_timeout = '{_FENCE_SECONDS}s'; {_FENCE}"
    for attempt in range(_ATTEMPTS):
        results = await asyncio.gather(*(it.execute(begin) for it in connections), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        if not failures:
            return
        await asyncio.gather(*(it.execute("rollback") for it in connections))
        if other := [it for it in failures if not isinstance(it, asyncpg.LockNotAvailableError)]:
            raise BackupError(f"the databases can't be held still: {other[0]}") from other[0]
        await asyncio.sleep(0.1 * 2**attempt)
    raise BackupError(f"a transaction of more than {_FENCE_SECONDS} s was under way at each of {_ATTEMPTS} attempts")


async def _dump(url: str, snapshot: str, folder: Path, say: Say) -> Dump:
    name = urlsplit(url).path.removeprefix("/")
    path = folder / f"{name}.dump"
    await _run("pg_dump", url, name, ["--format=custom", f"--snapshot={snapshot}", f"--file={path}"])
    path.chmod(0o600)
    dump = Dump(path.name, path.stat().st_size, await asyncio.to_thread(_sha256, path))
    say(f"{name}: {dump.bytes:,} bytes")
    return dump


_RESTORE = ("--exit-on-error", "--single-transaction")


async def _run(tool: str, url: str, database: str, arguments: list[str]) -> None:
    """Run one of PostgreSQL's programs on a database; what must stay secret goes by the environment."""
    server = urlsplit(url)
    environment = {
        **os.environ,
        "PGHOST": server.hostname or "",
        "PGPORT": str(server.port or 5432),
        "PGUSER": unquote(server.username or ""),
        "PGPASSWORD": unquote(server.password or ""),
        **{f"PG{name.upper()}": values[0] for name, values in parse_qs(server.query).items()},
    }
    program = [_program(tool), f"--dbname={database}", *arguments]
    process = await asyncio.create_subprocess_exec(*program, env=environment, stderr=asyncio.subprocess.PIPE)
    try:
        _, errors = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    if process.returncode:
        raise BackupError(f"{tool} of {database} failed: {errors.decode(errors='replace').strip()}")


def _program(tool: str) -> str:
    """Return the program of the local stack's PostgreSQL, which is as new as any server; else the machine's."""
    try:
        return str(postgres.programs() / tool)
    except StackError:
        found = shutil.which(tool)
    if found is None:
        raise BackupError(f"there is no {tool}: install PostgreSQL's client programs, at least as new as the server")
    return found


async def _check_server(connection: Connection) -> None:
    known = {row["rolname"] for row in await connection.fetch("select rolname from pg_roles")}
    if missing := sorted(set(LOGINS) - known):
        raise BackupError(f"the server lacks the roles {', '.join(missing)}: prepare it first")
    connected = await connection.fetch(
        "select distinct application_name from pg_stat_activity where datname = any($1) order by 1",
        [f"dotmac_{service}" for service in SERVICES],
    )
    if connected:
        names = ", ".join(row["application_name"] or "somebody" for row in connected)
        raise BackupError(f"the databases are in use, by {names}: stop all services first")


def _beside(service: str) -> str:
    return f"dotmac_{service}__restored"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _all(work: Mapping[str, Any]) -> dict[str, Any]:
    """Do it side by side; when one fails, end the others before its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {name: group.create_task(part) for name, part in work.items()}
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return {name: task.result() for name, task in tasks.items()}
