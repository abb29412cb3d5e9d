"""The demo, which is the main job as a client drives it, on the running stack."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from cli.demo import Demo, DemoFailed
from cli.generator import generate
from cli.mapping import read_mapping
from deploy.stack.stack import Stack
from tests.subscribers import MAPPING, PUBLISHED


async def demo(stack: Stack, subscribers: Path) -> str:
    """Run it, and return what it printed."""
    printed = io.StringIO()
    console = Console(file=printed, width=200)
    await Demo(stack.gateway_url, stack.kafka, stack.administrator, subscribers, read_mapping(MAPPING), console).run()
    return printed.getvalue()


async def test_the_published_file_gives_its_month_twice_and_to_the_outside_subscriber(stack: Stack) -> None:
    if not PUBLISHED.exists():
        pytest.skip(f"the published subscriber file is not at {PUBLISHED}")
    report = await demo(stack, PUBLISHED)
    table = [[cell.strip() for cell in line.split("│")[1:4]] for line in report.splitlines() if line.count("│") == 4]
    rows = {name: figures for name, *figures in table}
    assert rows["customers"] == ["7,043", "7,043"]
    assert rows["subscriptions"][0] == "5,174"
    assert rows["invoices"] == ["5,174", "5,174"]
    assert rows["amount invoiced"] == ["316,985.75 USD", "316,985.75 USD"]


async def test_a_file_that_names_a_subscriber_twice_fails_with_what_the_import_said(
    stack: Stack, tmp_path: Path
) -> None:
    file = tmp_path / "subscribers.csv"
    generate(file, 50)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines, lines[1]]))
    with pytest.raises(DemoFailed, match="'rejected': 1"):
        await demo(stack, file)
