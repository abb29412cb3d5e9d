"""Which tokens are revoked and would be valid otherwise, as the tenant service's events tell; see `following`."""

from datetime import UTC, datetime, timedelta

from chassis.security.principals import Principal
from dotmac_contracts.envelope import Envelope, Event
from dotmac_contracts.tenant import SessionEnded, TokenRevoked, TokensRevoked
from dotmac_contracts.topics import TENANT_SESSION

LONGEST_LIFETIME = timedelta(hours=12)
"""No token lives longer, so nothing has to be known of what was revoked longer ago."""

_NEVER = datetime.min.replace(tzinfo=UTC)
_DIFFERENCE = timedelta(minutes=1)
"""By how much the clocks of two machines may differ."""


class Revocations:
    """The tokens that are revoked and would be valid otherwise."""

    topic = TENANT_SESSION

    def __init__(self) -> None:
        self.version = 0
        """Grows with each revocation: who remembers a principal looks again when it has."""
        self._tokens: dict[str, datetime] = {}
        self._users: dict[str, datetime] = {}
        self._sessions: dict[str, datetime] = {}

    def include(self, principal: Principal) -> bool:
        """Say whether the token that this principal was read from is revoked."""
        if principal.token_id in self._tokens or principal.session_id in self._sessions:
            return True
        return principal.issued_at <= self._users.get(principal.subject, _NEVER)

    def hear(self, _envelope: Envelope, event: Event) -> None:
        """Take note of an event of the topic."""
        self.add(event)

    def add(self, event: Event) -> None:
        """Take note of a revocation; one that comes again, or late, changes nothing. Other events pass by."""
        match event:
            case TokenRevoked():
                self._tokens[str(event.token_id)] = event.expires_at
            case TokensRevoked():
                user = str(event.user_id)
                self._users[user] = max(event.issued_before, self._users.get(user, _NEVER))
            case SessionEnded():
                self._sessions[str(event.session_id)] = event.expires_at
            case _:
                return
        self.version += 1

    def forget_expired(self, now: datetime) -> None:
        """Drop what concerns no token that could still be valid."""
        ended = now - _DIFFERENCE
        self._tokens = {token: expires_at for token, expires_at in self._tokens.items() if expires_at > ended}
        self._sessions = {session: expires_at for session, expires_at in self._sessions.items() if expires_at > ended}
        self._users = {user: until for user, until in self._users.items() if until > ended - LONGEST_LIFETIME}
