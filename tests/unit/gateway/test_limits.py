"""Rate limits: exact in what they let through, bounded in what they remember."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import limits
from gateway.limits import LocalLimiter, Policy, Quota


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(limits.time, "monotonic", lambda: now[0])
    return now


def test_a_quota_is_written_as_people_write_it() -> None:
    assert Quota.parse("100/second") == (100, 1.0)
    assert Quota.parse(" 6000 / minute ") == (6000, 60.0)
    assert Quota.parse("5/day") == (5, 86400.0)
    for wrong in ("", "0/second", "-1/second", "1/fortnight", "1.5/second", "second"):
        with pytest.raises(ValueError, match="a quota is written as"):
            Quota.parse(wrong)


@settings(deadline=None)  # the machine may be busy
@given(
    requests=st.integers(1, 20),
    seconds=st.sampled_from([0.5, 1.0, 60.0]),
    gaps=st.lists(st.floats(0, 1.0), max_size=200),
)
def test_never_more_than_a_quota_at_once_and_its_rate_after_that(
    requests: int, seconds: float, gaps: list[float]
) -> None:
    policy, limiter, now = Policy("p", Quota(requests, seconds)), LocalLimiter(), 1000.0
    passed: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits.time, "monotonic", lambda: now)
        for gap in gaps:
            now += gap * seconds / 4
            (ahead,) = limiter.take_now([policy], ["key"])
            if policy.refuses(ahead):
                assert policy.remaining(ahead) == 0
                assert ahead - seconds > 0
            else:
                passed.append(now)
        # Between any two moments: no more than the whole quota and what it refills by.
        for i, first in enumerate(passed):
            for j in range(i, len(passed)):
                assert j - i + 1 <= requests + (passed[j] - first) * requests / seconds + 1e-3


def test_what_is_left_and_when_to_come_back_are_exact(clock: list[float]) -> None:
    policy, limiter = Policy("p", Quota(3, 60.0)), LocalLimiter()
    for left in (2, 1, 0):
        (ahead,) = limiter.take_now([policy], ["key"])
        assert not policy.refuses(ahead)
        assert policy.remaining(ahead) == left
    (ahead,) = limiter.take_now([policy], ["key"])
    assert policy.refuses(ahead)
    wait = ahead - policy.window
    assert wait == pytest.approx(20.0)
    clock[0] += wait - 0.01
    assert policy.refuses(*limiter.take_now([policy], ["key"]))
    clock[0] += 0.02
    assert not policy.refuses(*limiter.take_now([policy], ["key"]))


def test_a_request_that_one_limit_refuses_is_counted_by_none(clock: list[float]) -> None:
    narrow, wide, limiter = Policy("narrow", Quota(1, 60.0)), Policy("wide", Quota(2, 60.0)), LocalLimiter()
    for _ in range(10):
        limiter.take_now([wide, narrow], ["all", "one"])
    (ahead,) = limiter.take_now([wide], ["all"])
    assert not wide.refuses(ahead)
    assert wide.remaining(ahead) == 0


def test_keys_are_forgotten_when_their_quota_is_whole_and_never_are_too_many(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_MOST_KEYS", 100)
    policy, limiter = Policy("p", Quota(10, 1.0)), LocalLimiter()
    for key in range(10_000):
        limiter.take_now([policy], [str(key)])
    counters = limiter._counters["p"]
    assert len(counters.young) + len(counters.old) <= 200
    for _ in range(3):
        clock[0] += 1.0
        limiter.take_now([policy], ["key"])
    assert len(counters.young) + len(counters.old) <= 2
