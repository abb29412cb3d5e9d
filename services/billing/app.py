"""The billing service, wired."""

from collections.abc import Sequence
from functools import partial

from chassis.messaging.subscription import Subscription
from chassis.service import Microservice, Service
from chassis.worker import Worker
from services.billing.api import catalogue, invoicing
from services.billing.consumers import customers, departures, meter, settings, snapshots, tenants, workspaces
from services.billing.use_cases.order_run import order_platform_run
from services.billing.use_cases.prepare_platform import prepare
from services.billing.use_cases.run_billing import BillingRuns


def _subscriptions(service: Service) -> Sequence[Subscription]:
    every = [
        workspaces.subscription(service),
        customers.subscription(service),
        snapshots.SNAPSHOTS.subscription(service),
        departures.subscription(service),
        settings.subscription(),
    ]
    if service.settings.dedicated_to is not None:
        return every
    return [*every, tenants.subscription(service), meter.subscription()]  # the platform's bills are the shared one's


def _workers(service: Service) -> Sequence[Worker]:
    runs = Worker("billing-runs", BillingRuns(service).step, poll_seconds=0.5)
    if service.settings.dedicated_to is not None:
        return [runs]
    return [runs, Worker("platform-billing", partial(order_platform_run, service), poll_seconds=60)]


MICROSERVICE = Microservice(
    name="billing",
    title="Billing",
    dedicable=True,
    routers=[catalogue.router, invoicing.router],
    subscriptions=_subscriptions,
    workers=_workers,
    prepare=prepare,
)
