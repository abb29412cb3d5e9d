"""The table of a run, filled row by row and told as it grows."""

import os
import platform
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table


class Report:
    """Figures, each beside its peer of the same run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._table = Table("what", "figure", "peer in this run", "ratio", "goal")

    def add(self, what: str, figure: str, peer: str = "", ratio: str = "", goal: str = "") -> None:
        """Add a row, and show it at once: a long run that breaks off has still said something."""
        self._table.add_row(what, figure, peer, ratio, goal)
        self._console.print(f"[dim]measured[/]  {what}: {figure}  {peer}  {ratio}")

    def show(self) -> None:
        """Print the table with the machine it was taken on."""
        self._console.print(self._table)
        self._console.print(
            f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.platform()},"
            f" Python {platform.python_version()}"
        )
