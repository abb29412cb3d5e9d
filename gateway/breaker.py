"""A circuit breaker: what keeps failing is left alone for a while, then tried by one request at a time."""


class CircuitBreaker:
    """Closed, all pass. Some failures in a row open it: none pass. After a pause it is half open: one passes, a probe.

    A probe that succeeds closes it, one that fails opens it for twice as long. Times are seconds of a monotonic clock.
    """

    __slots__ = ("_failures", "_limit", "_longest", "_open_until", "_pause", "_probing", "_seconds")

    def __init__(self, failures: int, seconds: float, longest: float = 30.0) -> None:
        self._limit = failures
        self._seconds = seconds
        self._longest = longest
        self._failures = 0
        self._open_until: float | None = None
        self._pause = seconds
        self._probing = False

    @property
    def closed(self) -> bool:
        """Whether all pass."""
        return self._open_until is None

    def wait(self, now: float) -> float:
        """Return how long to stay away: 0 lets this request pass, and its outcome must then be told."""
        if self._open_until is None:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        if self._probing:
            return self._seconds
        self._probing = True
        return 0.0

    def succeeded(self) -> None:
        """A request that passed was answered."""
        if self._failures or self._open_until is not None:
            self._failures, self._open_until, self._pause, self._probing = 0, None, self._seconds, False

    def failed(self, now: float) -> None:
        """A request that passed was not answered."""
        self._failures += 1
        if self._open_until is None:
            if self._failures >= self._limit:
                self._open_until = now + self._pause
        elif self._probing:
            self._probing = False
            self._pause = min(self._pause * 2, self._longest)
            self._open_until = now + self._pause

    def abandoned(self) -> None:
        """A request that passed has no outcome: its client went away. If it was the probe, the next one is."""
        self._probing = False
