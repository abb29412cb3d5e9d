"""Reads every public topic along."""

from collections.abc import Sequence
from typing import Any

from chassis.messaging.subscription import Received, Subscription
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.envelope import EVENTS
from dotmac_contracts.topics import ALL
from services.integration.use_cases.record_events import record_events

PUBLIC_EVENTS = {name: event for name, event in sorted(EVENTS.items()) if event.TOPIC.public}


def subscription(service: Service) -> Subscription:
    """Return what is done with events: each is recorded."""

    async def record(tx: Transaction, received: Sequence[Received[Any]]) -> None:
        await record_events(tx, service, received)

    public = [topic for topic in ALL if topic.public]
    return Subscription("integration", public, dict.fromkeys(PUBLIC_EVENTS.values(), record))
