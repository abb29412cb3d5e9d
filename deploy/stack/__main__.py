"""`python -m deploy.stack`: runs the stack until Ctrl-C."""

import asyncio
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from deploy.stack.processes import StackError
from deploy.stack.stack import Stack, until_cancelled

FOLDER = Path(".stack")
console = Console()


async def run() -> None:
    """Start, say where everything is, and stay."""
    started = time.perf_counter()

    def say(message: str) -> None:
        console.print(f"[dim]{time.perf_counter() - started:6.1f} s[/]  {escape(message)}", soft_wrap=True)

    async with Stack(FOLDER, say=say) as stack:
        console.print(stack.summary, soft_wrap=True, markup=False)
        console.print(
            f"Next: `make demo` in another terminal. Ctrl-C stops everything; the data stays in {FOLDER}.",
            soft_wrap=True,
        )
        await asyncio.Event().wait()


def main() -> None:
    """Run until Ctrl-C or SIGTERM; status 1 with the reason if it can't start."""
    try:
        asyncio.run(until_cancelled(run))
    except StackError as error:
        sys.exit(f"The stack did not start: {error}")


if __name__ == "__main__":
    main()
