"""A deployment, told as a story: each step is done in turn; when one fails, the done ones are undone in reverse."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum


class Command(StrEnum):
    """What the saga asks the world to do."""

    START = "start"
    ALLOCATE = "allocate"
    REQUEST_WORKSPACES = "request_workspaces"
    REQUEST_ADMINISTRATOR = "request_administrator"
    VERIFY = "verify"
    REMOVE_WORKSPACES = "remove_workspaces"
    REMOVE_ADMINISTRATOR = "remove_administrator"
    TELL_SUCCESS = "tell_success"
    TELL_FAILURE = "tell_failure"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a step is done, whose answers end it, how long it may take, and how it is undone."""

    name: str
    do: Command
    timeout: timedelta
    answers: frozenset[str] = frozenset({"self"})
    undo: Command | None = None


POOLED: tuple[Recipe, ...] = (
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
    Recipe("verify", Command.VERIFY, timedelta(minutes=1)),
)
RECIPES = {"pooled": POOLED}


@dataclass(frozen=True, slots=True)
class Step:
    """A step and how far it is. Times are UTC."""

    name: str
    status: str = "pending"
    waiting_for: frozenset[str] = frozenset()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Saga:
    """A deployment's steps. Every method returns the next state and the commands that go with it."""

    target: str
    steps: tuple[Step, ...]
    status: str = "running"
    reason: str | None = None
    commands: tuple[Command, ...] = field(default=(), compare=False)

    @classmethod
    def begin(cls, target: str, now: datetime) -> "Saga":
        """Start a deployment with its first step."""
        saga = cls(target, tuple(Step(recipe.name) for recipe in RECIPES[target]))
        return replace(saga, commands=(Command.START,))._start(0, now)

    @property
    def recipes(self) -> Sequence[Recipe]:
        return RECIPES[self.target]

    @property
    def current(self) -> Step | None:
        """The step under way."""
        return next((step for step in self.steps if step.status == "running"), None)

    @property
    def deadline(self) -> datetime | None:
        """When the step under way has taken too long."""
        step = self.current
        if step is None or step.started_at is None:
            return None
        return step.started_at + self._recipe(step.name).timeout

    def answered(self, name: str, who: str, now: datetime) -> "Saga":
        """Take an answer to a step; one that is late, or comes again, changes nothing."""
        step = self.current
        if step is None or step.name != name or who not in step.waiting_for:
            return self
        left = step.waiting_for - {who}
        if left:
            return self._with(replace(step, waiting_for=left))
        done = self._with(replace(step, waiting_for=left, status="succeeded", finished_at=now))
        following = [recipe.name for recipe in self.recipes].index(name) + 1
        if following < len(self.recipes):
            return done._start(following, now)
        return replace(done, status="succeeded", commands=(*done.commands, Command.TELL_SUCCESS))

    def failed(self, name: str, reason: str, now: datetime) -> "Saga":
        """Give up: undo what was begun, the last first, and say why."""
        step = self.current
        if step is None or step.name != name:
            return self
        saga = self._with(replace(step, status="failed", finished_at=now, detail=reason))
        for recipe, begun in reversed(list(zip(self.recipes, self.steps, strict=True))):
            if begun.status == "pending" or recipe.undo is None:
                continue
            saga = replace(saga, commands=(*saga.commands, recipe.undo))
            if begun.status == "succeeded":
                saga = saga._with(replace(begun, status="compensated"))
        return replace(saga, status="failed", reason=reason, commands=(*saga.commands, Command.TELL_FAILURE))

    def timed_out(self, now: datetime) -> "Saga":
        """Fail the step under way if its time is over."""
        step, deadline = self.current, self.deadline
        if step is None or deadline is None or now < deadline:
            return self
        missing = ", ".join(sorted(step.waiting_for - {"self"}))
        seconds = self._recipe(step.name).timeout.total_seconds()
        why = f"no answer from {missing}" if missing else step.detail or "it did not end"
        return self.failed(step.name, f"{step.name} gave up after {seconds:.0f} s: {why}", now)

    def noted(self, name: str, detail: str) -> "Saga":
        """Keep what is known of the step under way."""
        step = self.current
        return self._with(replace(step, detail=detail)) if step and step.name == name else self

    def _recipe(self, name: str) -> Recipe:
        return next(recipe for recipe in self.recipes if recipe.name == name)

    def _start(self, index: int, now: datetime) -> "Saga":
        recipe = self.recipes[index]
        step = Step(recipe.name, "running", recipe.answers, now)
        return replace(self._with(step), commands=(*self.commands, recipe.do))

    def _with(self, step: Step) -> "Saga":
        return replace(self, steps=tuple(step if old.name == step.name else old for old in self.steps))
