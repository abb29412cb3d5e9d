"""Who is asking."""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Principal:
    """The subject of a verified token, the tenant it acts in, and what it may do there."""

    subject: str
    tenant_id: UUID
    scopes: frozenset[str]
    roles: tuple[str, ...]
    token_id: str
    issued_at: datetime
    expires_at: datetime
    session_id: str | None = None
    """What the token was issued in, and ends with: a user's session, if it has one."""
    kind: str = "user"
    """What the subject works with: `user`, or `api-key`, `service-account`, `system`."""
