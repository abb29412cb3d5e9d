"""The integration service, wired."""

from functools import partial

from chassis.persistence.listener import Listener
from chassis.service import Microservice, Service
from chassis.worker import Worker
from services.integration.api import audit, feed, webhooks
from services.integration.consumers import audit as audit_log
from services.integration.consumers import departures, events
from services.integration.settings import audit_settings, webhook_settings
from services.integration.use_cases.deliver import Dispatcher
from services.integration.use_cases.forget_entries import forget_entries
from services.integration.use_cases.forget_events import forget_events
from services.integration.use_cases.record_events import FEED_CHANNEL

_FORGET_SECONDS = 60.0


def _listeners(service: Service) -> list[Listener]:
    return [Listener(service.settings.database_url, FEED_CHANNEL, application_name="integration-feed")]


def _workers(service: Service) -> list[Worker]:
    return [
        Dispatcher(service, webhook_settings()),
        Worker("forgetting", partial(forget_events, service), poll_seconds=_FORGET_SECONDS),
        Worker(
            "audit-retention",
            partial(forget_entries, service, audit_settings().retention_days),
            poll_seconds=_FORGET_SECONDS,
        ),
    ]


MICROSERVICE = Microservice(
    name="integration",
    title="Events and webhooks",
    routers=[feed.router, webhooks.router, audit.router],
    subscriptions=lambda service: [
        events.subscription(service),
        departures.subscription(service),
        audit_log.subscription(),
    ],
    workers=_workers,
    listeners=_listeners,
    sealed=[("webhook_endpoint", "secret"), ("webhook_endpoint", "previous_secret")],
)
