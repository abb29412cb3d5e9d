"""The circuit breaker's states, told by what it lets pass."""

from gateway.breaker import CircuitBreaker


def broken(failures: int = 3) -> CircuitBreaker:
    breaker = CircuitBreaker(failures, seconds=1.0, longest=3.0)
    for _ in range(failures):
        assert breaker.wait(0.0) == 0
        breaker.failed(0.0)
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    breaker = CircuitBreaker(2, seconds=1.0)
    for _ in range(5):
        breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.closed
    breaker.failed(0.0)
    breaker.failed(0.0)
    assert not breaker.closed
    assert breaker.wait(0.25) == 0.75


def test_half_open_one_passes_and_its_success_closes() -> None:
    breaker = broken()
    assert breaker.wait(1.0) == 0
    assert breaker.wait(1.0) > 0
    breaker.succeeded()
    assert breaker.closed
    assert [breaker.wait(1.0) for _ in range(3)] == [0, 0, 0]
    breaker.failed(1.0)
    assert breaker.closed  # it counts from the beginning again


def test_a_probe_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    breaker, now = broken(), 0.0
    for pause in (1.0, 2.0, 3.0, 3.0):
        assert breaker.wait(now) == pause
        now += pause
        assert breaker.wait(now) == 0
        breaker.failed(now)
    now += 3.0
    assert breaker.wait(now) == 0
    breaker.succeeded()
    for _ in range(3):
        breaker.failed(now)
    assert breaker.wait(now) == 1.0  # the pause is short again


def test_a_probe_without_an_outcome_leaves_its_place_to_the_next() -> None:
    breaker = broken()
    assert breaker.wait(1.0) == 0
    breaker.abandoned()
    assert breaker.wait(1.0) == 0
    assert breaker.wait(1.0) > 0


def test_late_failures_of_what_passed_before_do_not_open_it_for_longer() -> None:
    breaker = broken()
    breaker.failed(0.9)
    assert breaker.wait(1.0) == 0
