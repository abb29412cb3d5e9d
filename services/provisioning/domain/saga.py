"""A deployment, told as a story: each step is done in turn; when one fails, the begun ones are undone in reverse.

It begins when it has waited for its turn in the queue. While it waits for a grace to be over it takes no place among
those that run, and after that it waits for its turn again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum


class Command(StrEnum):
    """What the saga asks the world to do."""

    START = "start"
    WAIT = "wait"
    ALLOCATE = "allocate"
    CREATE_DATABASES = "create_databases"
    MIGRATE = "migrate"
    START_INSTANCES = "start_instances"
    REPLACE_INSTANCES = "replace_instances"
    ASSIGN_ROUTE = "assign_route"
    RESERVE = "reserve"
    HOLD = "hold"
    DRAIN = "drain"
    COPY = "copy"
    OPEN = "open"
    MOVE_JOURNAL = "move_journal"
    DELETE_SOURCE = "delete_source"
    REQUEST_WORKSPACES = "request_workspaces"
    REQUEST_ADMINISTRATOR = "request_administrator"
    REQUEST_TRANSITION = "request_transition"
    REQUEST_EXPORT = "request_export"
    REQUEST_DELETION = "request_deletion"
    VERIFY = "verify"
    VERIFY_CLOSED = "verify_closed"
    VERIFY_OPEN = "verify_open"
    REMOVE_WORKSPACES = "remove_workspaces"
    REMOVE_ADMINISTRATOR = "remove_administrator"
    WITHDRAW_ROUTE = "withdraw_route"
    STOP_INSTANCES = "stop_instances"
    RESTORE_INSTANCES = "restore_instances"
    DROP_DATABASES = "drop_databases"
    GIVE_UP_PLACE = "give_up_place"
    RELEASE = "release"
    EMPTY = "empty"
    REVERSE_TRANSITION = "reverse_transition"
    TELL_SUCCESS = "tell_success"
    TELL_FAILURE = "tell_failure"


OF_TARGETS = frozenset(
    {
        Command.CREATE_DATABASES,
        Command.MIGRATE,
        Command.START_INSTANCES,
        Command.REPLACE_INSTANCES,
        Command.ASSIGN_ROUTE,
        Command.WITHDRAW_ROUTE,
        Command.STOP_INSTANCES,
        Command.RESTORE_INSTANCES,
        Command.DROP_DATABASES,
    }
)
"""What a target does by itself."""
OF_MOVES = frozenset(
    {
        Command.RESERVE,
        Command.HOLD,
        Command.DRAIN,
        Command.COPY,
        Command.OPEN,
        Command.MOVE_JOURNAL,
        Command.DELETE_SOURCE,
        Command.GIVE_UP_PLACE,
        Command.RELEASE,
        Command.EMPTY,
    }
)
"""What concerns two places."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a step is done, whose answers end it, how long it may take, and how it is undone by the same parties."""

    name: str
    do: Command
    timeout: timedelta
    answers: frozenset[str] = frozenset({"self"})
    undo: Command | None = None
    status: str | None = None
    """The tenant's status that the step leads to, or verifies."""
    final: bool = False
    """Whether nothing can be undone any more once it has begun."""


def _verify(command: Command, status: str | None = None) -> Recipe:
    return Recipe(command.value, command, timedelta(minutes=1), status=status)


def _transition(name: str, status: str) -> Recipe:
    return Recipe(
        name,
        Command.REQUEST_TRANSITION,
        timedelta(minutes=1),
        frozenset({"tenant"}),
        Command.REVERSE_TRANSITION,
        status,
    )


GRACE = Recipe("grace", Command.WAIT, timedelta(minutes=1))
"""Waits for as long as was ordered, and is left out if that is not at all."""

_DEPLOY: tuple[Recipe, ...] = (
    Recipe("allocate", Command.ALLOCATE, timedelta(seconds=30)),
    Recipe(
        "prepare_workspaces",
        Command.REQUEST_WORKSPACES,
        timedelta(minutes=2),
        frozenset({"customer", "billing"}),
        Command.REMOVE_WORKSPACES,
    ),
    Recipe(
        "create_administrator",
        Command.REQUEST_ADMINISTRATOR,
        timedelta(minutes=2),
        frozenset({"tenant"}),
        Command.REMOVE_ADMINISTRATOR,
    ),
    _verify(Command.VERIFY),
)


_ALLOCATE, _WORKSPACES, _ADMINISTRATOR, _VERIFY = _DEPLOY


def _at_places(do: Command, undo: Command | None = None, *, final: bool = False, minutes: int = 2) -> Recipe:
    """Return a step that is done at the places themselves, by their target or by what moves a tenant between them."""
    return Recipe(do.value, do, timedelta(minutes=minutes), undo=undo, final=final)


# Where many start, each waits for its turn.
_START = _at_places(Command.START_INSTANCES, Command.STOP_INSTANCES, minutes=5)


_DEPLOY_DEDICATED = (
    _ALLOCATE,
    _at_places(Command.CREATE_DATABASES, Command.DROP_DATABASES),
    _at_places(Command.MIGRATE),
    _START,
    replace(_WORKSPACES, undo=None),  # they go with the databases
    _ADMINISTRATOR,
    _at_places(Command.ASSIGN_ROUTE, Command.WITHDRAW_ROUTE),
    _VERIFY,
)


def _again(deploy: tuple[Recipe, ...], *but: str) -> tuple[Recipe, ...]:
    """Do it once more for a tenant that is at work: what it has built on it stays, even where that fails."""
    return tuple(replace(recipe, undo=None) for recipe in deploy if recipe.name not in but)


def _close(status: str) -> tuple[Recipe, ...]:
    return GRACE, _transition("close_access", status), _verify(Command.VERIFY_CLOSED, status)


# What is there is looked at before anybody is let in to it.
_RESUME = (GRACE, _verify(Command.VERIFY), _transition("open_access", "active"), _verify(Command.VERIFY_OPEN, "active"))

_HOLDERS = frozenset({"tenant", "customer", "billing", "integration"})
"""The services that hold data of tenants."""


def _deletion(name: str) -> Recipe:
    return Recipe(name, Command.REQUEST_DELETION, timedelta(minutes=10), _HOLDERS, final=True)


_RETIRE = Recipe(
    "retire",
    Command.REQUEST_TRANSITION,
    timedelta(minutes=1),
    frozenset({"tenant"}),
    status="deprovisioned",
    final=True,
)
_LEAVE = (
    _transition("close_access", "deprovisioning"),
    _verify(Command.VERIFY_CLOSED, "deprovisioning"),
    GRACE,
    Recipe("export_data", Command.REQUEST_EXPORT, timedelta(minutes=10), _HOLDERS),
    _deletion("delete_data"),
    # Once more: what was under way when it was deleted is gone as well, and the counts are the proof.
    _deletion("prove_deletion"),
)
_TEAR_DOWN = tuple(
    _at_places(command, final=True)
    for command in (Command.WITHDRAW_ROUTE, Command.STOP_INSTANCES, Command.DROP_DATABASES)
)


_REPLACE = (_at_places(Command.REPLACE_INSTANCES, Command.RESTORE_INSTANCES, minutes=5), _VERIFY)
"""Of a tenant that is at work: those that are to come work beside those that are there, until they are looked at."""
_OF_INSTANCES: dict[str, tuple[Recipe, ...]] = {
    "upgrade": (GRACE, _at_places(Command.MIGRATE), *_REPLACE),
    "scale": (GRACE, *_REPLACE),
    # Its databases stay as they are: a release leaves them so that the one before it can work on.
    "roll_back": (GRACE, *_REPLACE),
}


def _gone_on_with(do: Command) -> Recipe:
    """Return a step after which a tenant is where it was moved to: there is time to go on, and no way back."""
    return _at_places(do, final=True, minutes=60)


_RESERVE = _at_places(Command.RESERVE, Command.GIVE_UP_PLACE, minutes=1)
_HOLD = _at_places(Command.HOLD, Command.RELEASE, minutes=1)
_DRAIN = _at_places(Command.DRAIN, minutes=1)
_COPY = _at_places(Command.COPY, Command.EMPTY, minutes=10)
_MOVE_OUT = (
    _ALLOCATE,
    _at_places(Command.CREATE_DATABASES, Command.DROP_DATABASES),
    _at_places(Command.MIGRATE),
    # What is written there goes with the databases: to undo it, nobody need reach a place that may be the trouble.
    replace(_RESERVE, undo=None),
    # Before anybody waits for them.
    _START,
    _HOLD,
    _DRAIN,
    replace(_COPY, undo=None),
    _gone_on_with(Command.OPEN),
    _gone_on_with(Command.ASSIGN_ROUTE),
    _gone_on_with(Command.MOVE_JOURNAL),
    _gone_on_with(Command.DELETE_SOURCE),
    _gone_on_with(Command.VERIFY),
)
"""From the shared databases to a place of its own."""
_MOVE_IN = (
    _ALLOCATE,
    _RESERVE,
    _HOLD,
    _DRAIN,
    _COPY,
    _gone_on_with(Command.OPEN),
    _gone_on_with(Command.WITHDRAW_ROUTE),
    _gone_on_with(Command.MOVE_JOURNAL),
    _gone_on_with(Command.STOP_INSTANCES),
    _gone_on_with(Command.DROP_DATABASES),
    _gone_on_with(Command.VERIFY),
)
"""From its own place to the shared databases."""


def _operations(deploy: tuple[Recipe, ...], tear_down: tuple[Recipe, ...]) -> dict[str, tuple[Recipe, ...]]:
    return {
        "deploy": deploy,
        "suspend": _close("suspended"),
        "maintain": _close("maintenance"),
        "resume": _RESUME,
        "deprovision": (*_LEAVE, *tear_down, _RETIRE),
        # Nobody orders these: the reconciler does, when something of a tenant is missing.
        "repair": _again(deploy, "allocate", "create_administrator"),
        "repair_administrator": (replace(_ADMINISTRATOR, undo=None),),
    }


RECIPES: Mapping[str, Mapping[str, tuple[Recipe, ...]]] = {
    "pooled": _operations(_DEPLOY, ()) | {"move": _MOVE_IN},
    **dict.fromkeys(
        ("process", "container"), _operations(_DEPLOY_DEDICATED, _TEAR_DOWN) | _OF_INSTANCES | {"move": _MOVE_OUT}
    ),
}
"""By target and operation."""


class Unknown(Exception):
    """There is no such operation at that target."""


def recipes_of(target: str, operation: str) -> tuple[Recipe, ...]:
    """Return how an operation is done at a target; Unknown if there is none such."""
    recipes = RECIPES.get(target, {}).get(operation)
    if recipes is None:
        raise Unknown(f"there is no operation {operation!r} at the target {target!r}")
    return recipes


def final_steps(operation: str) -> frozenset[str]:
    """Return the steps of an operation, wherever it is done, after whose beginning nothing can be undone."""
    known = [recipe for recipes in RECIPES.values() for recipe in recipes.get(operation, ())]
    return frozenset(recipe.name for recipe in known if recipe.final)


class Impossible(Exception):
    """A step can't be done, and to try it again would change nothing; the message says why."""


class Refused(Exception):
    """The deployment's state forbids it."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step and how far it is: pending, running, succeeded, failed, compensating, compensated or stuck.

    Stuck: it could not be undone in time. `since` is when it began to run, or to be undone; `until`, for how long it
    waits by itself. Times are UTC.
    """

    name: str
    status: str = "pending"
    waiting_for: frozenset[str] = frozenset()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    since: datetime | None = None
    detail: str | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Saga:
    """A deployment's steps. Every method returns the next state and the commands that go with it.

    Status: queued, waiting, running, compensating, succeeded or failed.
    """

    target: str
    operation: str
    steps: tuple[Step, ...]
    status: str = "queued"
    failed_step: str | None = None
    reason: str | None = None
    grace: timedelta = timedelta()
    moved_from: str | None = None
    """Of a move, the target where the tenant was."""
    commands: tuple[Command, ...] = field(default=(), compare=False)

    @classmethod
    def order(
        cls,
        target: str,
        operation: str,
        now: datetime,
        grace: timedelta = timedelta(),
        moved_from: str | None = None,
    ) -> "Saga":
        """Put a deployment into the queue, or let its grace begin; Unknown if there is no such operation."""
        steps = [Step(recipe.name) for recipe in recipes_of(target, operation) if grace or recipe is not GRACE]
        saga = cls(target, operation, tuple(steps), grace=grace, moved_from=moved_from)
        return saga._run(0, now) if steps[0].name == GRACE.name else saga

    def start(self, now: datetime) -> "Saga":
        """It is its turn: begin with the first step that is not done."""
        if self.status != "queued":
            return self
        pending = next(index for index, step in enumerate(self.steps) if step.status == "pending")
        return replace(self, commands=(*self.commands, Command.START))._run(pending, now)

    def cancel(self, reason: str, now: datetime) -> "Saga":
        """Give up because somebody wants it, and undo what was begun; Refused if it is over, or being undone."""
        step = self.current
        if self.is_final:
            raise Refused("what it has done can't be undone any more")
        if self.status in ("waiting", "running") and step is not None:
            return self.failed(step.name, reason, now)
        if self.status != "queued":
            raise Refused(f"it is {self.status}")
        pending = next(step for step in self.steps if step.status == "pending")
        return replace(self, status="compensating", failed_step=pending.name, reason=reason)._undo_next(now)

    def retry(self) -> "Saga":
        """Put one that failed into the queue again: it goes on with the first step that is not done, or was undone.

        What can't be undone is known to have begun: while it waits for its turn it can't be given up either.
        """
        if self.status != "failed":
            raise Refused(f"it is {self.status}: only one that failed can be tried again")
        steps = tuple(
            step
            if step.status == "succeeded"
            else Step(step.name, started_at=step.started_at if recipe.final else None)
            for recipe, step in zip(self.recipes, self.steps, strict=True)
        )
        return replace(self, steps=steps, status="queued", failed_step=None, reason=None, commands=())

    @property
    def recipes(self) -> Sequence[Recipe]:
        """How each of its steps is done."""
        known = {recipe.name: recipe for recipe in RECIPES[self.target][self.operation]}
        return [known[step.name] for step in self.steps]

    @property
    def current(self) -> Step | None:
        """The step that runs or is undone now; none when the deployment has ended."""
        return next((step for step in self.steps if step.status in ("running", "compensating")), None)

    @property
    def deadline(self) -> datetime | None:
        """When the current step has taken too long."""
        step = self.current
        if step is None or step.since is None:
            return None
        return max(step.since, step.until or step.since) + self.recipe(step.name).timeout

    def done(self, name: str, who: str, now: datetime) -> "Saga":
        """Take an answer to a step; one that is late, or comes again, changes nothing."""
        step = self._heard(name, who, "running")
        if step is None:
            return self
        if step.waiting_for:
            return self._with(step)
        saga = self._with(replace(step, status="succeeded", finished_at=now))
        if name == GRACE.name:
            return replace(saga, status="queued")
        following = [recipe.name for recipe in self.recipes].index(name) + 1
        if following < len(self.recipes):
            return saga._run(following, now)
        return replace(saga, status="succeeded", commands=(*saga.commands, Command.TELL_SUCCESS))

    def undone(self, name: str, who: str, now: datetime) -> "Saga":
        """Take the answer that a step is undone; one that is late, or comes again, changes nothing."""
        step = self._heard(name, who, "compensating")
        if step is None:
            return self
        if step.waiting_for:
            return self._with(step)
        return self._with(replace(step, status="compensated", finished_at=now))._undo_next(now)

    def failed(self, name: str, reason: str, now: datetime) -> "Saga":
        """Give up: say why, and undo what was begun, the last first."""
        step = self.current
        if step is None or step.name != name or step.status != "running":
            return self
        saga = self._with(replace(step, status="failed", waiting_for=frozenset(), finished_at=now, detail=reason))
        return replace(saga, status="compensating", failed_step=name, reason=reason)._undo_next(now)

    def timed_out(self, now: datetime) -> "Saga":
        """Fail the current step if its time is over. One that can't be undone is left, and said to be stuck."""
        step, deadline = self.current, self.deadline
        if step is None or deadline is None or now < deadline:
            return self
        missing = ", ".join(sorted(step.waiting_for - {"self"}))
        seconds = self.recipe(step.name).timeout.total_seconds()
        why = f"no answer from {missing}" if missing else step.detail or "it did not end"
        if step.status == "running":
            return self.failed(step.name, f"{step.name} gave up after {seconds:.0f} s: {why}", now)
        stuck = f"{step.name} could not be undone within {seconds:.0f} s: {why}"
        saga = self._with(replace(step, status="stuck", finished_at=now, detail=stuck))
        return replace(saga, reason=f"{self.reason}; {stuck}")._undo_next(now)

    def noted(self, name: str, detail: str) -> "Saga":
        """Keep what is known of the step that runs."""
        step = self.current
        return self._with(replace(step, detail=detail)) if step and step.name == name else self

    def _heard(self, name: str, who: str, status: str) -> Step | None:
        """Return the current step without this party among those it waits for; None if it doesn't wait for it."""
        step = self.current
        if step is None or (step.name, step.status) != (name, status) or who not in step.waiting_for:
            return None
        return replace(step, waiting_for=step.waiting_for - {who})

    @property
    def place(self) -> str:
        """The target at which its steps are done: a move makes, or takes down, what the tenant has to itself."""
        return self.moved_from if self.moved_from not in (None, "pooled") else self.target

    @property
    def is_final(self) -> bool:
        """Whether it has begun what can't be undone."""
        steps = zip(self.recipes, self.steps, strict=True)
        return any(recipe.final and step.started_at is not None for recipe, step in steps)

    def recipe(self, name: str) -> Recipe:
        """Return how a step is done."""
        return next(recipe for recipe in self.recipes if recipe.name == name)

    def _run(self, index: int, now: datetime) -> "Saga":
        recipe = self.recipes[index]
        until = now + self.grace if recipe is GRACE else None
        step = Step(recipe.name, "running", recipe.answers, started_at=now, since=now, until=until)
        status = "waiting" if recipe is GRACE else "running"
        return replace(self._with(step), status=status, commands=(*self.commands, recipe.do))

    def _undo_next(self, now: datetime) -> "Saga":
        steps = [] if self.is_final else list(zip(self.recipes, self.steps, strict=True))
        for recipe, step in reversed(steps):
            if recipe.undo is not None and step.status in ("succeeded", "failed"):
                saga = self._with(replace(step, status="compensating", waiting_for=recipe.answers, since=now))
                return replace(saga, commands=(*saga.commands, recipe.undo))
        return replace(self, status="failed", commands=(*self.commands, Command.TELL_FAILURE))

    def _with(self, step: Step) -> "Saga":
        return replace(self, steps=tuple(step if old.name == step.name else old for old in self.steps))
