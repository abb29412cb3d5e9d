"""Runs a service's migrations with Alembic: `python -m chassis.persistence.migrations customer`."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import create_async_engine

_ONE_AT_A_TIME = 7_305_811_004  # advisory lock: two processes that migrate the same database take turns


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


async def upgrade(service: str, url: str) -> None:
    """Bring a service's database to its newest version, in one transaction. `url` is its owner's."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade, versions_of(service))
    finally:
        await engine.dispose()


if __name__ == "__main__":
    import asyncio

    if len(sys.argv) != 2 or not os.environ.get("MIGRATION_DATABASE_URL"):
        sys.exit("usage: MIGRATION_DATABASE_URL=postgresql://… python -m chassis.persistence.migrations <service>")
    asyncio.run(upgrade(sys.argv[1], os.environ["MIGRATION_DATABASE_URL"]))
