"""The provisioning service, wired."""

from chassis.persistence.listener import Listener
from chassis.service import Microservice, Service
from chassis.worker import Worker
from services.provisioning.api import deployments as api
from services.provisioning.api import drifts, progress
from services.provisioning.consumers import deployments
from services.provisioning.instances import Host
from services.provisioning.instances.containers import Containers
from services.provisioning.instances.processes import Processes
from services.provisioning.instances.supervisor import Supervisor
from services.provisioning.settings import deployment_settings
from services.provisioning.use_cases.advance import PROGRESS_CHANNEL
from services.provisioning.use_cases.reconcile import Reconciler
from services.provisioning.use_cases.work import Deployer


def _listeners(service: Service) -> list[Listener]:
    return [Listener(service.settings.database_url, PROGRESS_CHANNEL, application_name="provisioning-progress")]


def _workers(service: Service) -> list[Worker]:
    settings = deployment_settings()
    reconciler = Reconciler(service, settings)
    workers = [
        Deployer(service, settings),
        # It asks for every tenant: a restart is no reason to.
        Worker("reconciler", reconciler.look, poll_seconds=settings.reconcile_seconds),
    ]
    hosts: dict[str, Host] = {}
    if settings.server_url:
        hosts["process"] = Processes(service.settings, settings)
    if settings.installation:
        hosts["container"] = Containers(service.settings, settings)
    return [*workers, Supervisor(service, hosts, settings.settle_seconds)] if hosts else workers


MICROSERVICE = Microservice(
    name="provisioning",
    title="Deployments",
    routers=[drifts.router, api.router, progress.router],
    subscriptions=lambda service: [deployments.subscription(service)],
    workers=_workers,
    listeners=_listeners,
)
