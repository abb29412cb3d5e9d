"""`dotmac snapshots`: what there is now, told whole to those who have not read how it came to be."""

import asyncio
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chassis.clock import SystemClock
from chassis.messaging.snapshots import Snapshots
from chassis.persistence.database import Database
from chassis.security.tokens import TokenVerifier
from chassis.security.vault import Vault
from chassis.service import Service
from chassis.settings import Settings
from cli.journal import Folder
from deploy.stack.stack import Stack
from dotmac_contracts.topics import ALL

OWNERS = tuple(dict.fromkeys(topic.owner for topic in ALL if topic.compacted))

snapshots = typer.Typer(no_args_is_help=True, help="What there is now, on the compacted topics.")
console = Console()


@snapshots.callback()
def group() -> None:
    """What there is now, on the compacted topics."""


@snapshots.command()
def publish(
    service: Annotated[
        list[str] | None, typer.Option(help=f"Only of {', '.join(OWNERS)}; may be repeated. Of all without it.")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(envvar="CONSUMER_DATABASE_URL", help="The service's database as its consumer role.")
    ] = None,
    folder: Folder = Path(".stack"),
) -> None:
    """Publish tenants, settings, customers, subscriptions and routes as they are now, for a topic that is new or lost.

    Of one service (--service and CONSUMER_DATABASE_URL), or of the local stack that runs. Services may run meanwhile;
    their relays send it. It may be ended and begun anew at any time.
    """
    if unknown := set(service or ()) - set(OWNERS):
        raise typer.BadParameter(f"of {', '.join(sorted(unknown))} there are no snapshots")
    names = [name for name in OWNERS if not service or name in service]
    if database_url is not None:
        if len(names) != 1:
            raise typer.BadParameter("CONSUMER_DATABASE_URL is of one service: say with --service of which")
        urls = {names[0]: database_url}
    else:
        stack = Stack.attached(folder)
        if stack is None:
            raise typer.BadParameter(f"no stack runs on {folder}: set CONSUMER_DATABASE_URL")
        urls = {name: stack.database_url(name, "consumer") for name in names}
    try:
        asyncio.run(_publish(urls))
    except (asyncpg.PostgresError, OSError) as error:
        sys.exit(f"Not all published: {error or type(error).__name__}")


async def _publish(urls: dict[str, str]) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]:,} snapshots"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for name, url in urls.items():
            database = Database(url, pool_size=2, application_name=f"{name}-snapshots")
            await database.connect()
            try:
                service = Service(
                    name, Settings(), database, database, SystemClock(), TokenVerifier(""), Vault("unused")
                )
                for found in _of(name):
                    bar = progress.add_task(found.removed.TOPIC.name, total=None, count=0)

                    async def told(done: int, tenants: int, count: int, bar: object = bar) -> None:
                        progress.update(bar, total=tenants, completed=done, count=count)  # type: ignore[arg-type]

                    await found.publish_all(service, told)
            finally:
                await database.close()


def _of(service: str) -> list[Snapshots]:
    """Return all snapshots that a service tells."""
    module = import_module(f"services.{service}.consumers.snapshots")
    return [found for found in vars(module).values() if isinstance(found, Snapshots)]
