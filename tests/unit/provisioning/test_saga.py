"""Whatever order answers come in, late, twice or never: a deployment ends, and what it began is undone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from hypothesis.strategies import sampled_from

from services.provisioning.domain.progress import between
from services.provisioning.domain.saga import RECIPES, Command, Refused, Saga, Unknown

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PARTIES = ("self", "customer", "billing", "tenant")
OPERATIONS = RECIPES["pooled"]
GRACE = timedelta(seconds=90)
NAMES = sorted({recipe.name for each in RECIPES.values() for recipes in each.values() for recipe in recipes})
ENDS = (Command.TELL_SUCCESS, Command.TELL_FAILURE)


class Deployment(RuleBasedStateMachine):
    """Every party may say anything at any time."""

    @initialize(
        what=sampled_from([(place, operation) for place, each in RECIPES.items() for operation in each]),
        grace=sampled_from((timedelta(), GRACE)),
    )
    def begin(self, what: tuple[str, str], grace: timedelta) -> None:
        self.now = NOW
        self.asked: list[Command] = []
        self.take(Saga.order(*what, NOW, grace))
        self.plan = self.saga.recipes
        self.undoes = {recipe.undo for recipe in self.plan}

    def take(self, saga: Saga) -> None:
        self.asked += saga.commands
        # As it is stored and loaded again: without its commands.
        self.saga = replace(saga, commands=())

    @rule(name=sampled_from(NAMES), who=sampled_from(PARTIES))
    def done(self, name: str, who: str) -> None:
        self.take(self.saga.done(name, who, self.now))

    @rule(name=sampled_from(NAMES), who=sampled_from(PARTIES))
    def undone(self, name: str, who: str) -> None:
        self.take(self.saga.undone(name, who, self.now))

    @rule(name=sampled_from(NAMES))
    def failed(self, name: str) -> None:
        self.take(self.saga.failed(name, "it broke", self.now))

    @rule()
    def it_is_its_turn(self) -> None:
        self.take(self.saga.start(self.now))

    @rule()
    def cancelled(self) -> None:
        try:
            self.take(self.saga.cancel("nobody wants it", self.now))
        except Refused:
            final = any(step.status != "pending" and self.saga.recipe(step.name).final for step in self.saga.steps)
            assert final or self.saga.status in ("compensating", "succeeded", "failed")

    @rule(seconds=sampled_from((1, 59, 61, 121)))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.take(self.saga.timed_out(self.now))

    @rule()
    def everybody_answers(self) -> None:
        step = self.saga.current
        if step is not None:
            for who in sorted(step.waiting_for):
                answer = self.saga.done if step.status == "running" else self.saga.undone
                self.take(answer(step.name, who, self.now))

    @invariant()
    def it_is_at_one_step_until_it_has_ended(self) -> None:
        busy = [step for step in self.saga.steps if step.status in ("running", "compensating")]
        idle = self.saga.status in ("queued", "succeeded", "failed")
        assert len(busy) == (0 if idle else 1)
        assert (self.saga.deadline is None) == idle

    @invariant()
    def it_tells_its_end_once(self) -> None:
        told = [command for command in self.asked if command in ENDS]
        expected = {"succeeded": [Command.TELL_SUCCESS], "failed": [Command.TELL_FAILURE]}
        assert told == expected.get(self.saga.status, [])

    @invariant()
    def steps_begin_in_order_and_what_was_begun_is_undone_in_reverse(self) -> None:
        done = [command for command in self.asked if command not in (*self.undoes, *ENDS, Command.START)]
        begun = self.plan[: len(done)]
        assert done == [recipe.do for recipe in begun]
        undone = [command for command in self.asked if command in self.undoes]
        final = any(recipe.final for recipe in begun)
        to_undo = [recipe.undo for recipe in reversed(begun) if recipe.undo and not final]
        assert undone == to_undo[: len(undone)]
        if self.saga.status == "failed":
            assert undone == to_undo
        if self.saga.status in ("queued", "waiting", "running", "succeeded"):
            assert undone == []

    @invariant()
    def a_failure_says_where_and_why(self) -> None:
        failing = self.saga.status in ("compensating", "failed")
        assert (self.saga.failed_step is not None) == failing
        assert bool(self.saga.reason) == failing

    def teardown(self) -> None:
        """However it stands, time alone brings it to an end."""
        for _ in range(3 * len(self.saga.steps)):
            self.it_is_its_turn()
            self.time_passes(121)
            self.time_passes(601)
        assert self.saga.status in ("succeeded", "failed")


TestDeployment = Deployment.TestCase
TestDeployment.settings = settings(max_examples=300, stateful_step_count=25, deadline=None)


def test_what_can_not_be_undone_in_time_is_said_to_be_stuck() -> None:
    saga = Saga.order("pooled", "deploy", NOW).start(NOW).done("allocate", "self", NOW)
    saga = saga.timed_out(NOW + timedelta(minutes=2))
    assert (saga.status, saga.failed_step) == ("compensating", "prepare_workspaces")
    assert saga.reason == "prepare_workspaces gave up after 120 s: no answer from billing, customer"
    saga = saga.undone("prepare_workspaces", "billing", NOW + timedelta(minutes=3))
    saga = saga.timed_out(NOW + timedelta(minutes=4))
    assert saga.status == "failed"
    assert [step.status for step in saga.steps] == ["succeeded", "stuck", "pending", "pending"]
    assert saga.reason is not None
    assert saga.reason.endswith("prepare_workspaces could not be undone within 120 s: no answer from customer")


def test_the_last_answer_ends_a_deployment_well() -> None:
    saga = Saga.order("pooled", "deploy", NOW).start(NOW)
    for name, who in (
        ("allocate", "self"),
        ("prepare_workspaces", "billing"),
        ("prepare_workspaces", "customer"),
        ("create_administrator", "tenant"),
        ("verify", "self"),
    ):
        assert saga.status == "running"
        saga = saga.done(name, who, NOW)
    assert saga.status == "succeeded"
    assert all(step.status == "succeeded" for step in saga.steps)


def test_grace_is_waited_for_without_a_place_and_left_out_where_there_is_none() -> None:
    at_once = Saga.order("pooled", "suspend", NOW)
    assert ([step.name for step in at_once.steps], at_once.status) == (["close_access", "verify_closed"], "queued")
    saga = Saga.order("pooled", "suspend", NOW, GRACE)
    assert [step.name for step in saga.steps] == ["grace", "close_access", "verify_closed"]
    assert saga.status == "waiting"
    assert saga.current is not None
    assert saga.current.until == NOW + GRACE
    assert saga.timed_out(NOW + GRACE) is saga
    assert saga.start(NOW) is saga
    saga = saga.done("grace", "self", NOW + GRACE)
    assert saga.status == "queued"
    saga = saga.start(NOW + GRACE)
    assert (saga.status, saga.commands[-1]) == ("running", Command.REQUEST_TRANSITION)


def test_what_nobody_knows_is_not_ordered() -> None:
    for target, operation in (("pooled", "explode"), ("nowhere", "deploy")):
        with pytest.raises(Unknown):
            Saga.order(target, operation, NOW)


def test_one_that_failed_goes_on_with_what_is_not_done_any_more() -> None:
    saga = Saga.order("pooled", "resume", NOW).start(NOW).done("verify", "self", NOW)
    for state in (saga, Saga.order("pooled", "resume", NOW)):
        with pytest.raises(Refused, match="only one that failed"):
            state.retry()
    saga = saga.done("open_access", "tenant", NOW).failed("verify_open", "it was refused", NOW)
    saga = saga.undone("open_access", "tenant", NOW)
    assert [step.status for step in saga.steps] == ["succeeded", "compensated", "failed"]
    saga = saga.retry()
    assert (saga.status, saga.reason, saga.failed_step) == ("queued", None, None)
    saga = saga.start(NOW)
    assert [step.status for step in saga.steps] == ["succeeded", "running", "pending"]
    assert saga.commands == (Command.START, Command.REQUEST_TRANSITION)


def test_the_log_tells_each_change_in_its_order() -> None:
    states = [Saga.order("pooled", "deploy", NOW)]
    states.append(states[-1].start(NOW))
    states.append(states[-1].done("allocate", "self", NOW))
    states.append(states[-1].done("prepare_workspaces", "billing", NOW))
    states.append(states[-1].failed("prepare_workspaces", "it broke", NOW))
    nothing = Saga("pooled", "deploy", ())
    told = [
        [(entry.step, entry.status, entry.message) for entry in between(before, after)]
        for before, after in zip([nothing, *states], states, strict=False)
    ]
    assert told == [
        [(None, "queued", None)],
        [("allocate", "running", None), (None, "running", None)],
        [("allocate", "succeeded", None), ("prepare_workspaces", "running", "waits for billing and customer")],
        [("prepare_workspaces", "running", "billing answered")],
        [("prepare_workspaces", "compensating", "it broke"), (None, "compensating", "it broke")],
    ]
    assert between(states[-1], states[-1]) == []


def test_what_is_deleted_is_not_undone_and_can_only_be_gone_on_with() -> None:
    saga = Saga.order("pooled", "deprovision", NOW, GRACE).start(NOW)
    saga = saga.done("close_access", "tenant", NOW).done("verify_closed", "self", NOW)
    assert saga.status == "waiting"
    assert saga.cancel("they stay", NOW).commands[-1] == Command.REVERSE_TRANSITION
    saga = saga.done("grace", "self", NOW + GRACE).start(NOW + GRACE)
    holders = ("tenant", "customer", "billing", "integration")
    for who in holders:
        saga = saga.done("export_data", who, NOW)
    with pytest.raises(Refused, match="undone any more"):
        saga.cancel("they stay", NOW)
    saga = saga.failed("delete_data", "it broke", NOW)
    assert (saga.status, saga.commands[-1]) == ("failed", Command.TELL_FAILURE)
    with pytest.raises(Refused, match="undone any more"):
        saga.retry().cancel("they stay", NOW)
    saga = saga.retry().start(NOW)
    assert saga.current is not None
    assert saga.current.name == "delete_data"
    for name in ("delete_data", "prove_deletion"):
        for who in holders:
            saga = saga.done(name, who, NOW)
    assert saga.done("retire", "tenant", NOW).status == "succeeded"


def test_a_repair_that_fails_takes_nothing_away() -> None:
    saga = Saga.order("pooled", "repair", NOW).start(NOW)
    for who in ("customer", "billing"):
        saga = saga.done("prepare_workspaces", who, NOW)
    saga = replace(saga, commands=()).failed("verify", "it broke", NOW)
    assert (saga.status, saga.commands) == ("failed", (Command.TELL_FAILURE,))
    assert [step.status for step in saga.steps] == ["succeeded", "failed"]


@pytest.mark.parametrize("own", ["process", "container"])
@pytest.mark.parametrize("back", [False, True])
def test_a_move_is_undone_until_the_new_place_is_opened_and_gone_on_with_after_that(own: str, back: bool) -> None:
    here, there = (own, "pooled") if back else ("pooled", own)
    saga = Saga.order(there, "move", NOW, moved_from=here).start(NOW)
    assert saga.place == own
    while (step := saga.current) is not None and step.name != "open":
        begun, saga = saga, saga.done(step.name, "self", NOW)
    undone = replace(begun, commands=()).failed("copy", "it differs", NOW)
    while (step := undone.current) is not None:
        undone = undone.undone(step.name, "self", NOW)
    assert undone.status == "failed" and not undone.is_final
    assert [command.value for command in undone.commands if command not in ENDS] == (
        ["empty", "release", "give_up_place"]
        if back  # else what was written at the new place goes with it, and nobody need reach that
        else ["release", "stop_instances", "drop_databases"]
    )
    with pytest.raises(Refused):
        saga.cancel("too late", NOW)
    broken = replace(saga, commands=()).failed("open", "nobody answers", NOW)
    assert (broken.status, broken.is_final, broken.commands) == ("failed", True, (Command.TELL_FAILURE,))
    with pytest.raises(Refused, match="undone any more"):  # though it waits for its turn
        broken.retry().cancel("too late", NOW)
    again = broken.retry().start(NOW)
    assert again.current is not None and again.current.name == "open"
