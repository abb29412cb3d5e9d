"""Where the time of a demo's steps went, by the metrics of the processes before and after each step."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from rich import box
from rich.table import Table

from deploy.stack.folder import running

FILE = "timings.json"
"""The last demo's timings, in the stack's folder."""
_TARGETS = "targets.json"
_BUSY = "dotmac_busy_seconds_total"


@dataclass(frozen=True)
class Reading:
    """Sums over all labels, of one process at one moment: by metric, and by part for the busy seconds."""

    values: dict[str, float]

    def since(self, earlier: "Reading") -> dict[str, float]:
        """Return what was added; a process that was started again counts from its start."""
        grown = {name: value - earlier.values.get(name, 0.0) for name, value in self.values.items()}
        return {name: change if change >= 0 else self.values[name] for name, change in grown.items()}


@dataclass
class Step:
    """Seconds of a step, and in which of them a part of some process had work under way."""

    name: str
    seconds: float
    busy: dict[str, float] = field(default_factory=dict)
    """By part: gateway, http (the use cases behind it), worker, relay, consumer; of its busiest process."""
    requests: int = 0
    events: int = 0
    delay: float | None = None
    """Mean seconds from an event to its effect, of the oldest events of the batches."""
    cpu: float = 0.0
    """Seconds of CPU of the gateway and the services together."""
    machine: float | None = None
    """Seconds of CPU of everything on the machine; None where it does not say."""

    @property
    def waiting(self) -> float:
        """Seconds in which the busiest part had nothing to do: at most so long nobody worked on the step."""
        return max(0.0, self.seconds - max(self.busy.values(), default=0.0))


class Meter:
    """Reads the processes' metrics around the steps. Without addresses it knows the seconds alone."""

    def __init__(self, addresses: Sequence[str] = ()) -> None:
        self._addresses = addresses
        self._last: list[Reading] = []
        self._machine: float | None = None
        self.steps: list[Step] = []

    @classmethod
    def of_stack(cls, folder: Path) -> "Meter":
        """Return a meter of the local stack on a folder, if it runs; the gateway's address is the first."""
        if running(folder) is None:
            return cls()
        (group,) = json.loads((folder / _TARGETS).read_text())
        return cls([f"http://{address}/metrics" for address in group["targets"]])

    async def begin(self) -> float:
        """Note where a step starts; return the moment."""
        self._last, self._machine = await self._read(), _machine_cpu_seconds()
        return time.perf_counter()

    async def end(self, name: str, started: float) -> Step:
        """Note where it ends."""
        step = Step(name, time.perf_counter() - started)
        machine = _machine_cpu_seconds()
        if machine is not None and self._machine is not None:
            step.machine = machine - self._machine
        readings = await self._read()
        changes = [now.since(then) for now, then in zip(readings, self._last, strict=True)]
        for index, change in enumerate(changes):
            for part in ("http", "worker", "relay", "consumer"):
                kind = "gateway" if part == "http" and index == 0 else part
                step.busy[kind] = max(step.busy.get(kind, 0.0), change.get(f"{_BUSY} {part}", 0.0))
            step.cpu += change.get("process_cpu_seconds_total", 0.0)
        total: Counter[str] = Counter()
        for change in changes:
            total.update(change)
        step.requests = round(total["dotmac_gateway_request_duration_seconds_count"])
        step.events = round(total["dotmac_relay_events_total"])
        if batches := total["dotmac_event_delay_seconds_count"]:
            step.delay = total["dotmac_event_delay_seconds_sum"] / batches
        self.steps.append(step)
        return step

    async def _read(self) -> list[Reading]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            return list(await asyncio.gather(*(_reading(session, address) for address in self._addresses)))

    def save(self, folder: Path) -> None:
        """Keep the steps for `dotmac timings`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_text(json.dumps([asdict(step) for step in self.steps], indent=1))


async def _reading(session: aiohttp.ClientSession, address: str) -> Reading:
    async with session.get(address) as answer:
        text = await answer.text()
    values: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = f"{_BUSY} {sample.labels['part']}" if sample.name == _BUSY else sample.name
            values[name] = values.get(name, 0.0) + sample.value
    return Reading(values)


def _machine_cpu_seconds() -> float | None:
    try:
        words = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq = map(int, words[1:8])
    return (user + nice + system + irq + softirq) / 100  # Linux counts in hundredths of a second


def saved(folder: Path) -> list[Step]:
    """Return the steps of the last demo on a folder; FileNotFoundError if there was none."""
    return [Step(**step) for step in json.loads((folder / FILE).read_text())]


def table(steps: Sequence[Step]) -> Table:
    """Return the steps as a table."""
    parts = ("gateway", "http", "worker", "relay", "consumer")
    made = Table(
        title="Where the time went: seconds in which a part had work under way (parts overlap)",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    made.add_column("step", no_wrap=True, min_width=max((len(step.name) for step in steps), default=0))
    headings = ("all", "gate-\nway", "use\ncase", "worker", "relay", "con-\nsumer", "wait-\ning")
    for name in (*headings, "re-\nquests", "events", "event to\neffect", "services\nCPU", "machine\nCPU"):
        made.add_column(name, justify="right", no_wrap=True)
    for step in steps:
        busiest = max(parts, key=lambda part: step.busy.get(part, 0.0))
        cells = [f"{step.busy.get(part, 0.0):.2f}" for part in parts]
        if step.busy.get(busiest, 0.0) > 0:
            cells[parts.index(busiest)] = f"[bold]{cells[parts.index(busiest)]}[/]"
        made.add_row(
            step.name,
            f"{step.seconds:.2f}",
            *cells,
            f"{step.waiting:.2f}",
            f"{step.requests:,}",
            f"{step.events:,}",
            "" if step.delay is None else f"{step.delay * 1000:,.0f} ms",
            f"{step.cpu:.2f}",
            "" if step.machine is None else f"{step.machine:.2f}",
        )
    return made
