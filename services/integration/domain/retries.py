"""When a delivery that failed is tried again, and when that ends."""

from dataclasses import dataclass
from datetime import datetime, timedelta

_FACTOR = 3
_JITTER = 0.2


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how long to go on."""

    first: timedelta
    longest: timedelta
    give_up: timedelta
    """For how long one delivery is tried."""
    disable: timedelta
    """For how long an endpoint may fail."""

    def wait(self, attempts: int, chance: float, asked: timedelta | None = None) -> timedelta:
        """Return how long to wait after so many attempts, 1 or more, that all failed.

        Three times as long each time, up to the longest, and a fifth more or less by `chance`, from 0 to 1, so that
        those who failed together don't come back together. `asked`: what the endpoint asks for at least.
        """
        # Beyond this many the longest is reached from a microsecond already.
        growth: int = _FACTOR ** min(attempts - 1, 40)
        planned = (
            self.longest
            if self.first.total_seconds() * growth > self.longest.total_seconds()
            else (self.first * growth)
        )
        return max(planned * (1 - _JITTER + 2 * _JITTER * chance), min(asked or timedelta(0), self.longest))

    def gives_up(self, first_attempt: datetime, now: datetime) -> bool:
        """Whether a delivery has been tried for long enough."""
        return now - first_attempt >= self.give_up

    def disables(self, failing_since: datetime, now: datetime) -> bool:
        """Whether an endpoint has failed for so long that nothing more is sent to it."""
        return now - failing_since >= self.disable
