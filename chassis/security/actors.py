"""Who makes happen what happens now, and from where: what every event that is published says of its actor.

A request is nobody's until its token is verified. What a consumer publishes has the actor of the event that it
answers, and a job that of whoever asked for it, whose row keeps it. All else the system does on its own.
"""

import contextlib
import ipaddress
from collections.abc import Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple, Self
from uuid import UUID

import orjson

from chassis.ids import PLATFORM_TENANT
from chassis.security.principals import Principal
from dotmac_contracts.envelope import Envelope


class Actor(NamedTuple):
    """Who acts: an attribute of the envelope each."""

    actorkind: str | None = None
    """`user`, `platform`, `api-key`, `service-account`, `anonymous` or `system`; None if it is not known."""
    actor: str | None = None
    clientaddress: str | None = None

    @classmethod
    def of(cls, envelope: Envelope) -> Self:
        """Return whose an event is."""
        return cls(envelope.actorkind, envelope.actor, envelope.clientaddress)

    @classmethod
    def kept(cls, text: str | None) -> Self:
        """Return who asked for a job, from what `stored` gave; a row that is older says nothing."""
        return cls(*orjson.loads(text)) if text else cls()

    def stored(self) -> str:
        """Return it as a row keeps it."""
        return orjson.dumps([*self]).decode()


SYSTEM = Actor("system")
_NOW: ContextVar[Actor] = ContextVar("actor", default=SYSTEM)


def current() -> Actor:
    """Return who acts now."""
    return _NOW.get()


@contextlib.contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Have somebody act for as long as this lasts."""
    token = _NOW.set(actor)
    try:
        yield
    finally:
        _NOW.reset(token)


def somebody(host: str | None) -> Actor:
    """Return whoever sends a request, of whom only the address is known."""
    return Actor("anonymous", None, _address(host) if host else None)


def authenticated(principal: Principal) -> None:
    """The present request is from this principal."""
    kind = "platform" if principal.kind == "user" and principal.tenant_id == PLATFORM_TENANT else principal.kind
    _NOW.set(Actor(kind, principal.subject, current().clientaddress))


def identified(tenant_id: UUID, user_id: UUID) -> None:
    """The present request, which has no token, is from this user: it proved so by a password or a one-time token."""
    kind = "platform" if tenant_id == PLATFORM_TENANT else "user"
    _NOW.set(Actor(kind, str(user_id), current().clientaddress))


@lru_cache(maxsize=1024)
def _address(host: str) -> str | None:
    """Return an IP address in its one spelling; None for what is none, which a proxy may pass on."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None
