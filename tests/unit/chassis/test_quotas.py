"""When a share of a quota is told of, and whether one more has room."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chassis.quotas import THRESHOLDS, QuotaExceeded, Usage, crossed


@pytest.mark.parametrize(
    ("limit", "before", "after", "told"),
    [
        (10, 7, 8, [80]),
        (10, 8, 9, []),
        (10, 9, 10, [100]),
        (10, 0, 10, [80, 100]),
        (10, 10, 11, []),
        (10, 8, 7, []),
        (9, 7, 8, [80]),  # 7.2 is not reached by 7
        (1_000_000, 799_999, 800_000, [80]),
        (None, 0, 1_000_000, []),
    ],
)
def test_a_threshold_is_told_of_when_it_is_reached(limit: int | None, before: int, after: int, told: list[int]) -> None:
    assert crossed(Usage(limit, before), Usage(limit, after)) == told


def test_another_plan_can_reach_a_threshold_by_itself() -> None:
    assert crossed(Usage(1000, 9), Usage(10, 9)) == [80]
    assert crossed(Usage(None, 12), Usage(10, 12)) == [80, 100]
    assert crossed(Usage(10, 10), Usage(None, 10)) == []


@given(st.integers(1, 300), st.lists(st.integers(-20, 20), max_size=40))
def test_each_is_told_of_once_however_large_the_steps(limit: int, steps: list[int]) -> None:
    used, told = 0, dict.fromkeys(THRESHOLDS, 0)
    rises = dict.fromkeys(THRESHOLDS, 0)
    for step in steps:
        after = max(0, used + step)
        for percent in crossed(Usage(limit, used), Usage(limit, after)):
            told[percent] += 1
        for percent in THRESHOLDS:
            rises[percent] += used < limit * percent / 100 <= after
        used = after
    assert told == rises


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_there_is_room_up_to_the_limit(limit: int, used: int, more: int) -> None:
    assert Usage(limit, used).has_room(more) is (used + more + 1 <= limit)
    assert Usage(None, used).has_room(more)


def test_the_problem_says_which_quota_and_how_much_is_used() -> None:
    problem = QuotaExceeded("users", Usage(10, 10))
    assert (problem.status, problem.slug) == (409, "quota-exceeded")
    assert problem.extensions == {"quota": "users", "limit": 10, "used": 10}
