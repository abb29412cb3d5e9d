"""The `dotmac` command."""

import asyncio
import contextlib
import logging
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.client import ApiError
from cli.dead_letters import dead_letters
from cli.demo import Demo, DemoFailed
from cli.generator import generate
from cli.mapping import MappingError, read_mapping
from deploy.stack.processes import StackError
from deploy.stack.stack import Stack, running

app = typer.Typer(no_args_is_help=True, help="The DotMac Platform's command line.")
app.add_typer(dead_letters, name="dead-letters")
console = Console()
# While it waits for Kafka, the client logs each attempt; the stack says itself when it gives up.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
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
) -> None:
    """Register an ISP, deploy it, load its subscribers and bill them, all through the API."""
    try:
        asyncio.run(_demo(subscribers, mapping, keep, folder))
    except (DemoFailed, ApiError, MappingError, StackError) as error:
        sys.exit(f"The demo failed: {error}")


async def _demo(subscribers: Path | None, mapping: Path, keep: bool, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        if subscribers is None:
            subscribers = Path(scratch) / "subscribers.csv"
            generate(subscribers)
        elif not subscribers.exists():
            raise MappingError(f"there is no file {subscribers}; SUBSCRIBERS names the CSV file to load")
        rules = read_mapping(mapping)
        async with _stack(folder) as (gateway, kafka, administrator, started):
            await Demo(gateway, kafka, administrator, subscribers, rules, console).run()
            if keep and started:
                console.print(f"The stack stays at {gateway} until Ctrl-C.")
                await asyncio.Event().wait()
    console.print("Next: `make run` leaves the stack running; its API is documented at /docs.")


@contextlib.asynccontextmanager
async def _stack(folder: Path) -> AsyncIterator[tuple[str, str, tuple[str, str], bool]]:
    """Use the stack that runs, or start one and stop it afterwards."""
    state = running(folder)
    if state:
        console.print(f"Using the stack that runs at {state['gateway']}.")
        name, password = state["administrator"]
        yield state["gateway"], state["kafka"], (name, password), False
        return
    async with Stack(folder, say=lambda message: console.print(f"[dim]stack[/]  {message}")) as stack:
        yield stack.gateway_url, stack.kafka, stack.administrator, True
