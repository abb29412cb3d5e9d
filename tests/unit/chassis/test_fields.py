"""Fields take what the document says, and nothing that pydantic would make something of."""

from datetime import UTC, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from chassis.http.fields import Moment

MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)


@pytest.mark.parametrize("text", ["2026-10-31T12:00:00Z", "2026-10-31t12:00:00.000z", "2026-10-31T14:00:00+02:00"])
def test_a_moment_is_written_with_its_offset(text: str) -> None:
    assert MOMENT.validate_python(text) == datetime(2026, 10, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "value", [90890, 90890.5, "90890", True, None, "2026-10-31", "2026-10-31T12:00:00", "2026-10-31T25:00:00Z", "١٢"]
)
def test_what_is_no_moment_of_rfc_3339_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        MOMENT.validate_python(value)
