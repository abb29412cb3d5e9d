"""Types of fields that requests of every service share, each as exact in the document as in what it accepts."""

import re
from datetime import UTC, date, datetime
from typing import Annotated, Any
from zoneinfo import available_timezones

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, Field, StringConstraints
from typing_extensions import TypeAliasType

from chassis.money import EXPONENTS

# PostgreSQL stores no NUL, nobody's name has control characters, and one of spaces alone is none. Spaces are spelled
# out, because ECMAScript, which the document speaks, and what runs here differ on what `\s` is.
PLAIN = r"^[^\x00-\x1f\x7f]*$"
_SPACE = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"
_SAYS_SOMETHING = rf"^[^\x00-\x1f\x7f]*[^{_SPACE}][^\x00-\x1f\x7f]*$"
_EMAIL = rf"^[^@{_SPACE}]+@[^@{_SPACE}]+\.[^@{_SPACE}]+$"

Text = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True, pattern=_SAYS_SOMETHING)]
"""A name or a remark of up to 200 characters, stripped of the spaces around it."""

ShortText = Annotated[
    str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True, pattern=_SAYS_SOMETHING)
]
"""The same of up to 100 characters."""

Email = Annotated[str, StringConstraints(max_length=254, pattern=_EMAIL)]


def only_a_number(value: Any) -> Any:
    """Refuse what pydantic would take for a number; `Whole` with it, and a field with bounds that may be absent."""
    if isinstance(value, bool | str):
        raise ValueError("not a number")
    return value


Whole = Annotated[int, BeforeValidator(only_a_number)]
"""An integer: neither `true` nor a text that looks like one, which would be taken for an amount otherwise."""


def _only_a_day(value: Any) -> Any:
    if not isinstance(value, date) and not (
        isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII)
    ):
        raise ValueError("not a date such as 2026-10-31")
    return value


Day = Annotated[date, BeforeValidator(_only_a_day)]
"""A date as RFC 3339 writes it, and no number of seconds."""

_MOMENT = r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)"


def _only_a_moment(value: Any) -> Any:
    if not isinstance(value, datetime) and not (isinstance(value, str) and re.fullmatch(_MOMENT, value, re.ASCII)):
        raise ValueError("not a moment such as 2026-10-31T12:00:00Z")
    return value


def in_utc(moment: datetime) -> datetime:
    """Return a moment in UTC; ValueError if it is before the first year there, or after the last."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("before the first year, or after the last") from None


Moment = Annotated[AwareDatetime, BeforeValidator(_only_a_moment), AfterValidator(in_utc)]
"""A date with its time and offset as RFC 3339 writes it, and no number of seconds; in UTC from here on."""

Country = Annotated[
    str, StringConstraints(min_length=2, max_length=2, pattern="^[A-Z]{2}$"), Field(description="ISO 3166-1 alpha-2")
]


def _known_currency(code: str) -> str:
    if code not in EXPONENTS:
        raise ValueError("not an ISO 4217 code")
    return code


Currency = TypeAliasType(
    "Currency",
    Annotated[
        str,
        AfterValidator(_known_currency),
        Field(description="ISO 4217", json_schema_extra={"enum": sorted(EXPONENTS)}, examples=["USD"]),
    ],
)
"""Named, so that the document has the list of all once."""


def _known_time_zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("not an IANA time zone")
    return name


TimeZone = TypeAliasType(
    "TimeZone",
    Annotated[
        str,
        AfterValidator(_known_time_zone),
        Field(
            description="IANA time zone",
            json_schema_extra={"enum": sorted(available_timezones())},
            examples=["America/New_York"],
        ),
    ],
)
