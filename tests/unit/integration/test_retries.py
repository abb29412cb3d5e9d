"""Deliveries are tried again later each time, for days, and not together."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.integration.domain.retries import Patience
from services.integration.domain.types import wants

PATIENCE = Patience(timedelta(seconds=5), timedelta(hours=12), timedelta(hours=72), timedelta(hours=120))
chances = st.floats(0, 1)


@given(st.integers(1, 10_000), chances)
def test_each_wait_is_longer_and_none_is_longer_than_the_longest(attempts: int, chance: float) -> None:
    wait = PATIENCE.wait(attempts, chance)
    assert PATIENCE.first * 0.8 <= wait <= PATIENCE.longest * 1.2
    grown = PATIENCE.wait(attempts + 1, chance)
    assert grown > wait or wait >= PATIENCE.longest * 0.8


@given(st.integers(1, 20), chances, st.timedeltas(timedelta(0), timedelta(days=365)))
def test_what_the_endpoint_asks_for_is_waited_for_within_reason(attempts: int, chance: float, asked: timedelta) -> None:
    wait = PATIENCE.wait(attempts, chance, asked)
    assert wait >= min(asked, PATIENCE.longest)
    assert wait <= PATIENCE.longest * 1.2


def test_a_delivery_is_tried_a_dozen_times_in_three_days() -> None:
    began = now = datetime(2026, 11, 1, tzinfo=UTC)
    attempts = 1
    while not PATIENCE.gives_up(began, now):
        now += PATIENCE.wait(attempts, 0.5)
        attempts += 1
    assert 12 <= attempts <= 16
    assert timedelta(hours=72) <= now - began < timedelta(hours=84)
    assert not PATIENCE.disables(began, now)
    assert PATIENCE.disables(began, began + timedelta(hours=120))


@given(st.lists(st.text()), st.text())
def test_naming_no_type_wants_all(types: list[str], one: str) -> None:
    assert wants([], one)
    assert wants([*types, one], one)
    assert wants(types, one) is (not types or one in types)
