"""The billing service, wired."""

from chassis.service import Microservice
from chassis.worker import Worker
from services.billing.api import catalogue, invoicing
from services.billing.consumers import customers, departures, snapshots, tenants, workspaces
from services.billing.use_cases.prepare_platform import prepare
from services.billing.use_cases.run_billing import BillingRuns

MICROSERVICE = Microservice(
    name="billing",
    title="Billing",
    dedicable=True,
    routers=[catalogue.router, invoicing.router],
    subscriptions=lambda service: [
        workspaces.subscription(service),
        customers.subscription(service),
        snapshots.SNAPSHOTS.subscription(service),
        departures.subscription(service),
        tenants.subscription(service),
    ],
    workers=lambda service: [Worker("billing-runs", BillingRuns(service).step, poll_seconds=0.5)],
    prepare=prepare,
)
