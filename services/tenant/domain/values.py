"""What a value of a setting, or of a parameter, may be."""

import re
from dataclasses import dataclass
from typing import Any


class Invalid(Exception):
    """A value that can't be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number within bounds."""

    minimum: int
    maximum: int

    def check(self, value: Any) -> int:
        """Return the value; Invalid if it is none of these."""
        if not isinstance(value, int) or isinstance(value, bool) or not self.minimum <= value <= self.maximum:
            raise Invalid(f"not a whole number from {self.minimum} to {self.maximum}")
        return value


@dataclass(frozen=True, slots=True)
class Line:
    """A text of one line, of some characters at most."""

    most: int
    pattern: str = r"[^\x00-\x1f\x7f]*[^\x00-\x20\x7f][^\x00-\x1f\x7f]*"
    """All of it fits this: without one, what has something to be seen."""
    what: str = "a line of text"

    def check(self, value: Any) -> str:
        """Return the value; Invalid if it is none of these."""
        if not isinstance(value, str) or len(value) > self.most or not re.fullmatch(self.pattern, value):
            raise Invalid(f"not {self.what} of up to {self.most} characters")
        return value


Kind = Number | Line
