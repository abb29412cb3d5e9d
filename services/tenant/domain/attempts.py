"""How often a password may be tried: some times at once, and then ever more slowly."""

from dataclasses import dataclass
from datetime import datetime, timedelta

FREE = 10
"""Wrong passwords in a row that cost nothing but themselves."""
LONGEST_WAIT = timedelta(minutes=15)
"""A stranger who tries keeps the owner out for no longer than this."""
FORGOTTEN_AFTER = timedelta(days=1)


class TooSoon(Exception):
    """The next attempt has to wait for so many seconds."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"wait for {seconds} s")
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Attempts:
    """The attempts in a row that were not, or not yet, right."""

    failures: int
    last_at: datetime

    def another(self, now: datetime) -> "Attempts":
        """Count one more, as failed until it turns out right; TooSoon while it has to wait."""
        if now - self.last_at >= FORGOTTEN_AFTER:
            return Attempts(1, now)
        wait = self.wait()
        # Of attempts at once, one may have been counted that began a little later: `now` can be the earlier moment.
        left = self.last_at + wait - now
        if wait and left > timedelta(0):
            raise TooSoon(-(-left // timedelta(seconds=1)))
        return Attempts(self.failures + 1, max(now, self.last_at))

    def wait(self) -> timedelta:
        """Return how long the next one has to wait; zero while they are free."""
        beyond = self.failures - FREE
        if beyond < 0:
            return timedelta(0)
        return min(timedelta(seconds=2 ** min(beyond, 20)), LONGEST_WAIT)
