"""How often a password may be tried."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.tenant.domain.attempts import FORGOTTEN_AFTER, FREE, LONGEST_WAIT, Attempts, TooSoon

START = datetime(2026, 1, 1, tzinfo=UTC)


def failed(times: int) -> Attempts:
    return Attempts(times, START)


def waited(times: int) -> int:
    """Return how many seconds the next one waits after so many wrong ones."""
    try:
        failed(times).another(START)
    except TooSoon as wait:
        return wait.seconds
    return 0


def test_some_are_free_and_then_each_waits_twice_as_long() -> None:
    assert [waited(times) for times in range(FREE)] == [0] * FREE
    assert [waited(FREE + times) for times in range(6)] == [1, 2, 4, 8, 16, 32]


@given(st.integers(min_value=0, max_value=10**9))
def test_nobody_is_kept_out_for_longer_than_said(times: int) -> None:
    longest = int(LONGEST_WAIT.total_seconds())
    assert waited(times) <= longest
    assert failed(times).another(START + LONGEST_WAIT).failures == times + 1


def test_whoever_waited_long_enough_may_try_and_a_moment_before_may_not() -> None:
    attempts = failed(FREE + 3)
    with pytest.raises(TooSoon) as wait:
        attempts.another(START + timedelta(seconds=7.5))
    assert wait.value.seconds == 1
    assert attempts.another(START + timedelta(seconds=8)) == Attempts(FREE + 4, START + timedelta(seconds=8))


def test_of_attempts_at_once_none_waits_for_another() -> None:
    assert failed(3).another(START - timedelta(milliseconds=5)) == Attempts(4, START)


def test_they_are_forgotten_after_a_day() -> None:
    later = START + FORGOTTEN_AFTER
    assert failed(FREE + 30).another(later) == Attempts(1, later)
