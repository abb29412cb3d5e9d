"""The customer service, wired."""

from functools import partial

from chassis.service import Microservice
from chassis.worker import Worker
from services.customer.api import customers, imports
from services.customer.consumers import departures, quotas, snapshots, workspaces
from services.customer.use_cases.run_import import run_import

MICROSERVICE = Microservice(
    name="customer",
    title="Customers",
    dedicable=True,
    routers=[imports.router, customers.router],
    streams=["/api/v1/customers/imports"],
    subscriptions=lambda service: [
        workspaces.subscription(service),
        quotas.subscription(service),
        snapshots.SNAPSHOTS.subscription(service),
        departures.subscription(service),
    ],
    workers=lambda service: [Worker("imports", partial(run_import, service), poll_seconds=0.5)],
)
