"""Time is injected, so that a month of billing can be run in a test. Always UTC."""

from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Whatever tells the time."""

    def now(self) -> datetime:
        """Return the current time, aware, in UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class FixedClock:
    """A clock that stands still until it is told to move."""

    def __init__(self, now: datetime) -> None:
        self.set(now)

    def now(self) -> datetime:
        return self._now

    def set(self, now: datetime) -> None:
        """Put the clock to `now`, which must be aware."""
        if now.tzinfo is None:
            raise ValueError("a clock needs an aware time: give it a tzinfo")
        self._now = now.astimezone(UTC)

    def advance(self, by: timedelta) -> None:
        """Move the clock forward."""
        self._now += by
