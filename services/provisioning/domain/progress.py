"""What can be told of a deployment's way from one state to the next."""

from dataclasses import dataclass

from services.provisioning.domain.saga import Saga


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a deployment's log: of one of its steps, or of itself."""

    step: str | None
    status: str
    message: str | None


def between(before: Saga, after: Saga) -> list[Entry]:
    """Return what has changed, in the order in which it happened."""
    known = {step.name: step for step in before.steps}
    entries = []
    for step in after.steps:
        old = known.get(step.name)
        if old is None or (old.status, old.detail) != (step.status, step.detail):
            message = step.detail or (_waits(step.waiting_for) if step.waiting_for else None)
            if old is not None or step.status != "pending":
                entries.append(Entry(step.name, step.status, message))
        elif answered := old.waiting_for - step.waiting_for:
            entries.append(Entry(step.name, step.status, f"{_those(answered)} answered"))
    begun = [entry for entry in entries if entry.status in ("running", "compensating")]
    entries = [entry for entry in entries if entry not in begun] + begun  # one ends before the next one begins
    if after.status != before.status or not before.steps:
        entries.append(Entry(None, after.status, after.reason))
    return entries


def _waits(parties: frozenset[str]) -> str | None:
    others = parties - {"self"}
    return f"waits for {_those(others)}" if others else None


def _those(parties: frozenset[str]) -> str:
    return " and ".join(sorted(parties))
