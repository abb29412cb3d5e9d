"""`python -m deploy.stack`: runs the stack until Ctrl-C."""

import asyncio
import logging
import sys
import time
from pathlib import Path

from rich.console import Console

from deploy.stack.processes import StackError
from deploy.stack.stack import Stack, running, until_cancelled

FOLDER = Path(".stack")
console = Console()
# While it waits for Kafka, the client logs each attempt; the stack says itself when it gives up.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


async def run() -> None:
    """Start, say where everything is, and stay."""
    started = time.perf_counter()

    def say(message: str) -> None:
        console.print(f"[dim]{time.perf_counter() - started:6.1f} s[/]  {message}")

    if running(FOLDER):
        raise StackError("the stack already runs here; stop it first, or use it as it is")
    async with Stack(FOLDER, say=say) as stack:
        name, password = stack.administrator
        console.print(
            f"""
[bold]The platform is ready.[/]
  API              {stack.gateway_url}/api/v1
  Documentation    {stack.gateway_url}/docs
  Kafka            {stack.kafka}
  Administrator    {name}
  Password         {password}
  Logs             {FOLDER}/logs

Next: `make demo` in another terminal. Ctrl-C stops everything; the data stays in {FOLDER}.""",
            soft_wrap=True,
        )
        await asyncio.Event().wait()


def main() -> None:
    try:
        asyncio.run(until_cancelled(run))
    except StackError as error:
        sys.exit(f"The stack did not start: {error}")


if __name__ == "__main__":
    main()
