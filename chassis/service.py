"""What a service is made of, and what its parts share while it runs."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from fastapi import APIRouter

from chassis.clock import Clock
from chassis.messaging.subscription import Subscription
from chassis.persistence.database import Database
from chassis.persistence.listener import Listener
from chassis.security.standing import Standings
from chassis.security.tokens import TokenVerifier
from chassis.security.vault import Vault
from chassis.settings import Settings
from chassis.worker import Worker


@dataclass(frozen=True)
class Service:
    """The running parts of a service: one database under two roles, a clock, and the token verifier."""

    name: str
    settings: Settings
    db: Database
    consumer_db: Database
    clock: Clock
    tokens: TokenVerifier
    vault: Vault
    standings: Standings = field(default_factory=Standings)
    """Beside the API."""
    workers: dict[str, Worker] = field(default_factory=dict)
    listeners: dict[str, Listener] = field(default_factory=dict)
    """Beside the API, by channel."""
    moved_by: UUID | None = None
    """The deployment that moved its tenant to an instance of its own, if one did."""

    @property
    def source(self) -> str:
        """The CloudEvents source of this service's events; of an instance that is a tenant's own, that one's.

        It is another one each time that the tenant is moved to such an instance.
        """
        whose = (self.name, self.settings.dedicated_to, self.moved_by)
        return "/services/" + "/".join(str(part) for part in whose if part is not None)

    def wake(self, worker: str) -> None:
        """Let a worker of this process look for work now; elsewhere its poll finds it."""
        if worker in self.workers:
            self.workers[worker].wake()


def _nothing(_service: Service) -> Sequence[Subscription]:
    return ()


def _no_workers(_service: Service) -> Sequence[Worker]:
    return ()


def _no_listeners(_service: Service) -> Sequence[Listener]:
    return ()


async def _no_preparation(_service: Service) -> None:
    return None


@dataclass(frozen=True)
class Microservice:
    """What a service's `app.py` states: its routes, its subscriptions, its workers. Nothing runs yet."""

    name: str
    title: str
    routers: Sequence[APIRouter] = ()
    subscriptions: Callable[[Service], Sequence[Subscription]] = _nothing
    workers: Callable[[Service], Sequence[Worker]] = _no_workers
    listeners: Callable[[Service], Sequence[Listener]] = _no_listeners
    """What the API waits by, for answers that go on."""
    streams: Sequence[str] = ()
    """Paths of the operations that take in their bodies piece by piece, and so may have large ones."""
    sealed: Sequence[tuple[str, str]] = ()
    """Tables and their columns that hold what the vault sealed, for good."""
    dedicable: bool = False
    """Whether a tenant can have an instance of its own."""
    prepare: Callable[[Service], Awaitable[None]] = _no_preparation
    """Runs once before the API answers, and must be idempotent."""
