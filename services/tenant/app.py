"""The tenant service, wired."""

from chassis.service import Microservice
from services.tenant.api import (
    auth,
    credentials,
    roles,
    second_factor,
    sessions,
    settings,
    sign_ups,
    templates,
    tenants,
    users,
)
from services.tenant.consumers import departures, deployments, snapshots
from services.tenant.use_cases.bootstrap import bootstrap

MICROSERVICE = Microservice(
    name="tenant",
    title="Tenants",
    routers=[
        auth.router,
        auth.keys,
        second_factor.router,
        tenants.router,
        users.router,
        sessions.router,
        roles.router,
        credentials.router,
        sign_ups.router,
        settings.router,
        templates.router,
    ],
    subscriptions=lambda service: [
        deployments.subscription(service),
        snapshots.SNAPSHOTS.subscription(service),
        snapshots.SETTINGS_SNAPSHOTS.subscription(service),
        departures.subscription(service),
    ],
    sealed=[("second_factor", "sealed_secret"), ("setting_secret", "sealed")],
    prepare=bootstrap,
)
