"""What an event changed: the fields that are not as they were known to be."""

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]


def changed(known: Fields | None, told: Fields) -> tuple[Fields | None, Fields]:
    """Return the fields that an event changed, as they were and as they are.

    `known`: all that was known before, None if nothing was. What an event does not tell of has not changed.
    """
    if known is None:
        return None, told
    after = {name: value for name, value in told.items() if name not in known or known[name] != value}
    return {name: known[name] for name in after if name in known}, after
