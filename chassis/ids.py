"""Identifiers: UUIDv7 (RFC 9562), so that ids sort by the time they were made."""

from datetime import UTC, datetime
from uuid import UUID

import uuid_utils.compat

PLATFORM_TENANT = UUID(int=0)
"""The tenant that stands for the platform itself: its users administer all others."""


def new_id() -> UUID:
    """Return a new UUIDv7."""
    return uuid_utils.compat.uuid7()


def made_at(identifier: UUID) -> datetime | None:
    """Return when a UUIDv7 was made (UTC, millisecond precision), or None for any other version."""
    if identifier.version != 7:
        return None
    return datetime.fromtimestamp((identifier.int >> 80) / 1000, UTC)
