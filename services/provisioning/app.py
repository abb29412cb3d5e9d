"""The provisioning service, wired."""

from functools import partial

from chassis.service import Microservice
from chassis.worker import Worker
from services.provisioning.api import deployments as api
from services.provisioning.consumers import deployments
from services.provisioning.use_cases.work import work

MICROSERVICE = Microservice(
    name="provisioning",
    title="Deployments",
    routers=[api.router],
    subscriptions=lambda service: [deployments.subscription(service)],
    workers=lambda service: [Worker("deployments", partial(work, service))],
)
