"""`dotmac journal`: publishes events again that were published before."""

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from aiokafka.errors import KafkaError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from chassis.messaging.journal import TooFarBack, check_reach, republish
from chassis.settings import Settings
from deploy.roles import SERVICES
from deploy.stack.stack import Stack

journal = typer.Typer(no_args_is_help=True, help="Events that were published.")
console = Console()


@journal.callback()
def group() -> None:
    """Events that were published."""


def moment(text: str) -> datetime:
    """Read an ISO 8601 moment with its offset, such as `2026-11-24T10:00:00Z`."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a moment such as 2026-11-24T10:00:00Z") from None
    if parsed.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no offset: write 2026-11-24T10:00:00Z, or +01:00 in place of Z")
    return parsed


Moment = Annotated[datetime, typer.Option(parser=moment, metavar="MOMENT", help="ISO 8601, as 2026-11-24T10:00:00Z.")]
Services = Annotated[list[str] | None, typer.Option(help="Of the local stack's, only this service; may be repeated.")]
Folder = Annotated[Path, typer.Option(help="Where the local stack keeps its data.")]


@journal.command("republish")
def republish_(
    since: Moment,
    service: Services = None,
    database_url: Annotated[
        str | None, typer.Option(envvar="RELAY_DATABASE_URL", help="A service's database as its relay role.")
    ] = None,
    folder: Folder = Path(".stack"),
) -> None:
    """Publish again, with their ids and in their order, the events since a moment.

    Those of one service (RELAY_DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS), or of the local stack that runs. Whoever has
    handled an event recognises it and does nothing; whoever has lost it handles it.
    """
    if unknown := set(service or ()) - set(SERVICES):
        raise typer.BadParameter(f"there is no service {', '.join(sorted(unknown))}")
    settings = Settings()
    if database_url is not None:
        urls = {"events": database_url}
    else:
        stack = Stack.attached(folder)
        if stack is None:
            raise typer.BadParameter(f"no stack runs on {folder}: set RELAY_DATABASE_URL and KAFKA_BOOTSTRAP_SERVERS")
        settings = settings.model_copy(update={"kafka_bootstrap_servers": stack.kafka})
        urls = {name: stack.database_url(name, "relay") for name in SERVICES if not service or name in service}
    try:
        check_reach(since, datetime.now(UTC))
        asyncio.run(_republish(urls, settings, since))
    except (TooFarBack, asyncpg.PostgresError, KafkaError, OSError) as error:
        sys.exit(f"Not published again: {error or type(error).__name__}")


async def _republish(urls: dict[str, str], settings: Settings, since: datetime) -> None:
    span = (datetime.now(UTC) - since).total_seconds()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[count]:,} events"))
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        for name, url in urls.items():
            bar = progress.add_task(name, total=span, count=0)

            async def told(count: int, reached: datetime, bar: object = bar) -> None:
                progress.update(bar, completed=(reached - since).total_seconds(), count=count)  # type: ignore[arg-type]

            count = await republish(url, settings, since, told)
            progress.update(bar, completed=span, count=count)
