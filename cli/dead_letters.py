"""`dotmac dead-letters`: lists, shows, replays and discards events that a consumer could not handle."""

import asyncio
from collections.abc import Awaitable, Callable
from getpass import getuser
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from chassis.messaging import dead_letter
from chassis.persistence.database import Database, Transaction

dead_letters = typer.Typer(no_args_is_help=True, help="Events that a consumer could not handle.")
console = Console()

Url = Annotated[str, typer.Option(envvar="CONSUMER_DATABASE_URL", help="The service's database as its consumer role.")]
LetterId = Annotated[int, typer.Argument(help="The dead letter's id, from `list`.")]
T = TypeVar("T")


def _within(url: str, work: Callable[[Transaction], Awaitable[T]]) -> T:
    async def run() -> T:
        database = Database(url, pool_size=1, application_name="dotmac-cli")
        await database.connect()
        try:
            async with database.unscoped() as tx:
                return await work(tx)
        finally:
            await database.close()

    return asyncio.run(run())


@dead_letters.command("list")
def list_(database_url: Url, consumer: str | None = None, limit: int = 100) -> None:
    """List the open ones, the oldest first."""
    letters = _within(database_url, lambda tx: dead_letter.list_open(tx, consumer, limit))
    table = Table("id", "consumer", "topic", "partition", "offset", "key", "parked", "attempts", "reason")
    for letter in letters:
        key = (letter.key or b"").decode(errors="replace")
        place = (letter.topic, str(letter.partition), str(letter.offset), key)
        table.add_row(str(letter.id), letter.consumer, *place, str(letter.parked), str(letter.attempts), letter.reason)
    console.print(table)


@dead_letters.command()
def show(database_url: Url, letter_id: LetterId) -> None:
    """Show one with its headers and value."""
    letter = _within(database_url, lambda tx: dead_letter.show(tx, letter_id))
    if letter is None:
        raise typer.BadParameter(f"there is no dead letter {letter_id}")
    console.print(f"{letter.consumer} could not handle {letter.topic}[{letter.partition}] at {letter.offset}:")
    console.print(letter.reason)
    for name, value in letter.headers:
        console.print(f"  {name}: {value.decode(errors='replace')}")
    console.print((letter.value or b"").decode(errors="replace"))


@dead_letters.command()
def replay(database_url: Url, letter_id: LetterId) -> None:
    """Have the running consumer handle it again, and all that waits behind it, in order."""
    if not _within(database_url, lambda tx: dead_letter.act(tx, letter_id, "replay", getuser())):
        raise typer.BadParameter(f"there is no open dead letter {letter_id}")
    console.print(f"Replay of {letter_id} is asked for. `dotmac dead-letters list` shows whether it is gone.")


@dead_letters.command()
def discard(database_url: Url, letter_id: LetterId) -> None:
    """Give it up; what waits behind it is handled."""
    if not _within(database_url, lambda tx: dead_letter.act(tx, letter_id, "discard", getuser())):
        raise typer.BadParameter(f"there is no open dead letter {letter_id}")
    console.print(f"{letter_id} is discarded.")
