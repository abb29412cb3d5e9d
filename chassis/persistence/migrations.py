"""Runs a service's migrations with Alembic: `python -m chassis.persistence.migrations customer`.

With `--wait` it waits instead until they have been run, so that a release starts only on a schema that it knows.
"""

import asyncio
import importlib
import os
import sys
from pathlib import Path
from typing import Any

import asyncpg
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from chassis.persistence.database import LOST
from chassis.persistence.schema import confinement, service_of_database

_ONE_AT_A_TIME = 7_305_811_004  # advisory lock: two processes that migrate the same database take turns
_MIGRATING = asyncio.Lock()  # Alembic knows one migration in a process at a time
_POLL_SECONDS = 1.0


def versions_of(service: str) -> ScriptDirectory:
    """Return the migrations of a service, which live in `services/<service>/migrations/versions`."""
    package = importlib.import_module(f"services.{service}")
    folder = Path(next(iter(package.__path__))) / "migrations"
    return ScriptDirectory(str(folder), version_locations=[str(folder / "versions")])


def _upgrade(connection: Connection, script: ScriptDirectory) -> None:
    connection.execute(sa.text("select pg_advisory_xact_lock(:key)"), {"key": _ONE_AT_A_TIME})

    def steps(revision: Any, _context: MigrationContext) -> Any:
        return script._upgrade_revs("head", revision)

    context = MigrationContext.configure(connection, opts={"fn": steps, "script": script})
    with Operations.context(context):
        context.run_migrations()
    database = connection.execute(sa.text("select current_database()")).scalar_one()
    for statement in confinement(database):
        connection.execute(sa.text(statement))
    # Those who wait for a version look it up as the API's role.
    connection.execute(sa.text(f"grant select on alembic_version to {service_of_database(database)}_api"))


async def upgrade(service: str, url: str) -> None:
    """Bring a service's database to its newest version, in one transaction. `url` is its owner's."""
    async with _MIGRATING:
        await _upgraded(service, url)


async def ensure(service: str, url: str) -> None:
    """Do the same if the database is behind what this code is for; one of a later release is left as it is."""
    script = versions_of(service)
    try:
        current = await _version(url)
    except asyncpg.UndefinedTableError:
        current = None
    behind = {revision.revision for revision in script.walk_revisions()} - {script.get_current_head()}
    if current is None or current in behind:
        await upgrade(service, url)


async def _upgraded(service: str, url: str) -> None:
    # The driver reads the address itself, which so may say how to check the server's certificate.
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(url))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade, versions_of(service))
    finally:
        await engine.dispose()


async def wait(service: str, url: str) -> None:
    """Return once a service's database has the version that this code is for, or a newer one. `url` is its API role's.

    A version that this code doesn't know is that of a later release, which is written so that this one can run on it.
    """
    script = versions_of(service)
    wanted, known = script.get_current_head(), {revision.revision for revision in script.walk_revisions()}
    said = ""
    while True:
        try:
            current = await _version(url)
        except LOST as error:
            reason = f"its database does not answer yet: {error or type(error).__name__}"
        else:
            if current == wanted or (current is not None and current not in known):
                return
            reason = f"its schema has version {current}, not yet {wanted}"
        if reason != said:
            sys.stderr.write(f"{service} waits: {reason}\n")
            said = reason
        await asyncio.sleep(_POLL_SECONDS)


async def _version(url: str) -> str | None:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        version: str | None = await connection.fetchval("select version_num from alembic_version", timeout=5)
        return version
    finally:
        await connection.close(timeout=5)


def main() -> None:
    """Migrate as the owner, or wait as the API's role."""
    match sys.argv[1:]:
        case ["--wait", service] if url := os.environ.get("DATABASE_URL"):
            asyncio.run(wait(service, url))
        case [service] if service != "--wait" and (url := os.environ.get("MIGRATION_DATABASE_URL")):
            asyncio.run(upgrade(service, url))
        case _:
            command = "python -m chassis.persistence.migrations"
            sys.exit(
                f"usage: MIGRATION_DATABASE_URL=postgresql://… {command} <service>\n"
                f"       DATABASE_URL=postgresql://… {command} --wait <service>"
            )


if __name__ == "__main__":
    main()
