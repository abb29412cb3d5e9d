"""The `dotmac` command."""

import asyncio
import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from cli.backup import backup
from cli.client import ApiError
from cli.dead_letters import dead_letters
from cli.demo import Demo, DemoFailed
from cli.generator import generate
from cli.journal import journal
from cli.mapping import MappingError, read_mapping
from cli.snapshots import snapshots
from cli.timings import Meter, saved, table
from deploy import compose
from deploy.compose import Addresses
from deploy.stack.folder import running
from deploy.stack.processes import StackError
from deploy.stack.stack import ADMINISTRATOR, Stack, until_cancelled

app = typer.Typer(no_args_is_help=True, help="The DotMac Platform's command line.")
app.add_typer(dead_letters, name="dead-letters")
app.add_typer(journal, name="journal")
app.add_typer(snapshots, name="snapshots")
app.add_typer(backup, name="backup")
console = Console()
_MAPPING = Path(__file__).resolve().parent.parent / "examples" / "telco-subscribers.mapping.yaml"


@app.callback()
def dotmac() -> None:
    """The DotMac Platform's command line."""


@app.command()
def demo(
    subscribers: Annotated[Path | None, typer.Option(help="A CSV file; without it 1,000 are made up.")] = None,
    mapping: Annotated[Path, typer.Option(help="What the file's columns mean.")] = _MAPPING,
    keep: Annotated[bool, typer.Option(help="Leave a stack that this started running until Ctrl-C.")] = False,
    folder: Annotated[Path, typer.Option(help="Where the stack keeps its data.")] = Path(".stack"),
    gateway: Annotated[
        str | None,
        typer.Option(envvar="GATEWAY_URL", help="A platform that runs elsewhere; its Kafka must be named as well."),
    ] = None,
    kafka: Annotated[
        str | None, typer.Option(envvar="KAFKA_BOOTSTRAP_SERVERS", help="Where the outside subscriber listens.")
    ] = None,
    administrator: Annotated[
        str, typer.Option(envvar="BOOTSTRAP_ADMIN_EMAIL", help="Whose password is in BOOTSTRAP_ADMIN_PASSWORD.")
    ] = ADMINISTRATOR,
) -> None:
    """Register an ISP, deploy it, load its subscribers and bill them, all through the API.

    On the platform that --gateway names; else on the one that `make run` or `make up` runs; else it starts one.
    """
    given = None
    if gateway is not None:
        password = os.environ.get("BOOTSTRAP_ADMIN_PASSWORD")
        if kafka is None or not password:
            raise typer.BadParameter("--gateway needs --kafka, and BOOTSTRAP_ADMIN_PASSWORD in the environment")
        given = Addresses(gateway, kafka, (administrator, password))
    try:
        finished = asyncio.run(until_cancelled(lambda: _demo(subscribers, mapping, keep, folder, given)))
    except (DemoFailed, ApiError, MappingError, StackError) as error:
        sys.exit(f"The demo failed: {error}")
    if not finished:
        sys.exit("The demo was interrupted.")


async def _demo(subscribers: Path | None, mapping: Path, keep: bool, folder: Path, given: Addresses | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        if subscribers is None:
            subscribers = Path(scratch) / "subscribers.csv"
            generate(subscribers)
        elif not subscribers.exists():
            raise MappingError(f"there is no file {subscribers}; SUBSCRIBERS names the CSV file to load")
        rules = read_mapping(mapping)
        found = given or _local(folder) or compose.running()
        if found:
            console.print(f"Using the platform that runs at {found.gateway}.", soft_wrap=True)
            meter = Meter() if given else Meter.of_stack(folder)
            await _timed(Demo(*found, subscribers, rules, console, meter), folder)
            _next(f"{found.gateway}/docs documents the API; the demo's tenant is there to be looked at.")
            return
        async with Stack(folder, say=_say) as stack:
            platform = Addresses(stack.gateway_url, stack.kafka, stack.administrator)
            await _timed(Demo(*platform, subscribers, rules, console, Meter.of_stack(folder)), folder)
            if keep:
                console.print(stack.summary, soft_wrap=True, markup=False)
                _next(
                    "open the documentation and try the API, or `make demo` again in another terminal."
                    f" Ctrl-C stops everything; the data stays in {folder}, and `make run` takes it up."
                )
                with contextlib.suppress(asyncio.CancelledError):  # how this is meant to end
                    await asyncio.Event().wait()
                return
    _next("`make run` takes up this data and leaves the stack running, `make demo KEEP=1` does after the demo.")


async def _timed(demo: Demo, folder: Path) -> None:
    try:
        await demo.run()
    finally:
        demo.meter.save(folder)
    console.print("`make timings` shows where the time of each step went.")


@app.command()
def timings(
    folder: Annotated[Path, typer.Option(help="Where the stack keeps its data.")] = Path(".stack"),
) -> None:
    """Show where the time of the last demo went: requests, use cases, workers, relay, consumers, waiting."""
    try:
        steps = saved(folder)
    except FileNotFoundError:
        sys.exit(f"There was no demo on {folder} yet: `make demo` first.")
    # Into a file or a pipe it is as wide as it needs to be.
    (console if console.is_terminal else Console(width=140)).print(table(steps))


def _local(folder: Path) -> Addresses | None:
    state = running(folder)
    return Addresses(state["gateway"], state["kafka"], tuple(state["administrator"])) if state else None


def _say(message: str) -> None:
    console.print(f"[dim]stack[/]  {escape(message)}", soft_wrap=True)


def _next(message: str) -> None:
    console.print(f"Next: {message}", soft_wrap=True, markup=False)
