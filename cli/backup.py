"""`dotmac backup`: backs up all databases at one moment, and takes the platform back to it."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from aiokafka.errors import KafkaError
from rich.console import Console

from chassis.messaging.broker import BrokerError
from chassis.messaging.journal import TooFarBack
from chassis.settings import Settings
from cli.journal import Folder, moment
from deploy import backup as backups
from deploy.backup import BackupError
from deploy.roles import SERVICES
from deploy.stack.processes import StackError
from deploy.stack.stack import Stack

backup = typer.Typer(no_args_is_help=True, help="Backups of all databases at one moment. Run book: docs/operations.")
console = Console(soft_wrap=True, highlight=False)

Server = Annotated[
    str | None,
    typer.Option(envvar="DATABASE_URL", help="The PostgreSQL server, as a superuser; else the local stack's."),
]
Since = Annotated[
    datetime | None,
    typer.Option(
        parser=moment,
        metavar="MOMENT",
        help="Publish events again from here on; no consumer may have been further behind. Else as far back as may be.",
    ),
]


def _run(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await work()

    try:
        asyncio.run(run())
    except (BackupError, BrokerError, TooFarBack, StackError, asyncpg.PostgresError, KafkaError, OSError) as error:
        sys.exit(f"It failed: {error or type(error).__name__}")


def _say(message: str) -> None:
    console.print(message)


@backup.command()
def create(
    folder: Annotated[Path, typer.Argument(help="A new folder for it.")],
    database_url: Server = None,
    stack: Folder = Path(".stack"),
) -> None:
    """Back up all databases as they are at one moment, while the platform runs."""

    async def work() -> None:
        running = None if database_url else Stack.attached(stack)
        server = database_url or (running.server_url if running else None)
        if server is None:
            raise BackupError(f"no stack runs on {stack}: set DATABASE_URL to a server's superuser")
        await backups.create(server, folder, _say)
        _say(f"Backed up to {folder}. Keep SECRET_KEY and JWT_SECRET_KEY with it, in another place.")

    _run(work)


@backup.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A backup.")],
    database_url: Server = None,
    stack: Folder = Path(".stack"),
    since: Since = None,
) -> None:
    """Take all databases, and the events, back to the moment of a backup. Stop every service first."""

    async def work() -> None:
        async with _servers(database_url, stack) as (server, settings):
            kept = await backups.restore(server, folder, _say)
            await backups.replay(backups.databases(server), settings, kept.moment, _say, since=since)
        _say(f"The platform is where it was at {kept.moment:%Y-%m-%d %H:%M:%S} UTC. Start the services.")

    _run(work)


@backup.command()
def replay(
    at: Annotated[
        datetime, typer.Option("--moment", parser=moment, metavar="MOMENT", help="The moment of the databases.")
    ],
    database_url: Server = None,
    stack: Folder = Path(".stack"),
    since: Since = None,
) -> None:
    """Have events continue from the moment that the databases were restored to by other means.

    Each service's database is that of DATABASE_URL's server, or named as its owner: TENANT_DATABASE_URL and so on.
    """

    async def work() -> None:
        named = {service: os.environ.get(f"{service.upper()}_DATABASE_URL", "") for service in SERVICES}
        if all(named.values()):
            await backups.replay(named, Settings(), at, _say, since=since)
        else:
            async with _servers(database_url, stack) as (server, settings):
                await backups.replay(backups.databases(server), settings, at, _say, since=since)
        _say("Events continue from there. Start the services.")

    _run(work)


@contextlib.asynccontextmanager
async def _servers(database_url: str | None, folder: Path) -> AsyncIterator[tuple[str, Settings]]:
    """Give the servers that are named, or those of the local stack, which are started alone and stopped again."""
    settings = Settings()
    if database_url:
        yield database_url, settings
        return
    if Stack.attached(folder):
        raise BackupError(f"the stack runs on {folder}: stop it first")
    stack = Stack(folder, say=_say)
    try:
        await stack.start_servers()
        yield stack.server_url, settings.model_copy(update={"kafka_bootstrap_servers": stack.kafka})
    finally:
        await stack.stop()
