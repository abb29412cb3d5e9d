"""The billing service, wired."""

from functools import partial

from chassis.service import Microservice
from chassis.worker import Worker
from services.billing.api import catalogue, invoicing
from services.billing.consumers import customers, workspaces
from services.billing.use_cases.run_billing import run_billing

MICROSERVICE = Microservice(
    name="billing",
    title="Billing",
    routers=[catalogue.router, invoicing.router],
    subscriptions=lambda service: [workspaces.subscription(service), customers.subscription(service)],
    workers=lambda service: [Worker("billing-runs", partial(run_billing, service), poll_seconds=0.5)],
)
