"""What a service listens to, and what it does with which event."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from chassis.persistence.database import Transaction
from dotmac_contracts.envelope import Envelope, Event
from dotmac_contracts.topics import Topic

E_co = TypeVar("E_co", bound=Event, covariant=True)


@dataclass(frozen=True, slots=True)
class Received(Generic[E_co]):
    """An event with its envelope."""

    envelope: Envelope
    event: E_co


Handler = Callable[[Transaction, Sequence[Received[Any]]], Awaitable[None]]
"""Takes new events of one type, in order, inside the consumer's transaction."""


class Permanent(Exception):
    """An event can never be handled: it becomes a dead letter."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A consumer group, its topics, and what it does with which event. Other events pass by."""

    consumer: str
    topics: Sequence[Topic]
    handlers: Mapping[type[Event], Handler]
    of_instances: bool = False
    """Whether it is of what tenants' own instances of the services tell, and of nothing else."""
