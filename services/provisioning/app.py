"""The provisioning service, wired."""

from chassis.persistence.listener import Listener
from chassis.service import Microservice, Service
from services.provisioning.api import deployments as api
from services.provisioning.api import progress
from services.provisioning.consumers import deployments
from services.provisioning.settings import deployment_settings
from services.provisioning.use_cases.advance import PROGRESS_CHANNEL
from services.provisioning.use_cases.work import Deployer


def _listeners(service: Service) -> list[Listener]:
    return [Listener(service.settings.database_url, PROGRESS_CHANNEL, application_name="provisioning-progress")]


MICROSERVICE = Microservice(
    name="provisioning",
    title="Deployments",
    routers=[api.router, progress.router],
    subscriptions=lambda service: [deployments.subscription(service)],
    workers=lambda service: [Deployer(service, deployment_settings())],
    listeners=_listeners,
)
