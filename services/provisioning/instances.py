"""The tenants' own instances: how they are named, what they are told, where they answer, and what they run in."""

import base64
import hmac
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from chassis.settings import Settings
from deploy.prepare import database_url
from deploy.roles import ROLES, login
from dotmac_contracts.provisioning import RouteAssigned

DEDICATED = ("customer", "billing")
"""The services that a tenant has instances of its own of."""
LOOPBACK = "127.0.0.1"
STARTING = 0
"""In place of what one that is about to start is known by."""
_PROVISIONINGS_OWN = ("DEPLOYMENT_", "MIGRATION_", "BOOTSTRAP_", "DOCKER_", "SECRET_KEY", "JWT_SECRET_KEY")


class Instance(NamedTuple):
    """One that runs: by what it is known where it runs, and where it answers, unless nobody is to ask it."""

    known_by: int | str
    host: str | None = None
    port: int | None = None


class InstanceError(Exception):
    """What instances run in refuses something, or does not answer; the message says what."""


class Host(Protocol):
    """What the instances of a target run in."""

    @property
    def parts(self) -> Sequence[str]:
        """What a tenant has there that runs: its instances, by service, and what these need."""

    async def running(self) -> Mapping[UUID, Mapping[str, Instance]]:
        """Return what runs there, by tenant and part; InstanceError if nobody can tell now."""

    async def start(self, tenant_id: UUID, parts: Collection[str], ports: Mapping[str, int]) -> Mapping[str, Instance]:
        """Start these parts of a tenant, and return them; at the ports where they were before, if that can be."""

    async def stop(self, tenant_id: UUID, running: Mapping[str, Instance]) -> None:
        """End these parts of a tenant."""

    async def let_go(self) -> None:
        """End all that must not outlive its supervisor."""


def named(service: str, tenant_id: UUID) -> str:
    """Return by what the databases and roles of a tenant's instance are known, in place of the service's name."""
    return f"{service}_{tenant_id.hex}"


def derived(secret: str, purpose: str) -> str:
    """Return a secret that follows from another one, and from which that one does not follow."""
    digest = hmac.digest(secret.encode(), purpose.encode(), "sha256")
    return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def passwords(settings: Settings, name: str) -> dict[str, str]:
    """Return the passwords of an instance's roles. They follow from SECRET_KEY, so that none is kept anywhere."""
    secret = settings.secret_key.get_secret_value()
    return {role: derived(secret, f"the database role {role}") for role in (login(name, each) for each in ROLES)}


def instance_url(settings: Settings, server_url: str, service: str, tenant_id: UUID, role: str) -> str:
    """Return the address of the database of a tenant's instance on a server, as one of its roles."""
    name = named(service, tenant_id)
    return database_url(server_url, name, role, passwords(settings, name)[login(name, role)])


def environment(settings: Settings, server_url: str, service: str, tenant_id: UUID) -> dict[str, str]:
    """Return the settings that an instance has of its own: whose it is, its databases, and secrets of its own.

    What it seals, it alone can open. It verifies tokens by the platform's public keys, and signs none.
    """
    name = named(service, tenant_id)
    urls = {
        f"{prefix}DATABASE_URL": instance_url(settings, server_url, service, tenant_id, role)
        for prefix, role in (("", "api"), ("CONSUMER_", "consumer"), ("RELAY_", "relay"))
    }
    keys = ("SECRET_KEY", "SECRET_KEY_PREVIOUS")
    secrets = [derived(secret, f"the instance {name}") for secret in settings.sealing_secrets]
    signs_nothing = derived(settings.secret_key.get_secret_value(), f"the tokens of the instance {name}")
    return {
        **urls,
        **dict(zip(keys, secrets, strict=False)),
        "JWT_SECRET_KEY": signs_nothing,
        "ROLES": "api,consumer,relay",
        "DEDICATED_TO": str(tenant_id),
    }


def passed_on() -> dict[str, str]:
    """Return what an instance has from provisioning's environment: all but what is provisioning's own."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_PROVISIONINGS_OWN)}


def addresses_of(row: Any) -> dict[str, str]:
    """Return where a tenant's instances answer, by service, from a row of `instance`."""
    return {name: f"http://{row['hosts'].get(name, LOOPBACK)}:{port}" for name, port in row["ports"].items()}


def route_of(row: Any) -> RouteAssigned:
    """Return where a tenant is answered, to be told: at its instances, or not before it has moved."""
    return RouteAssigned(
        tenant_id=row["tenant_id"],
        deployment_id=row["deployment_id"],
        addresses=addresses_of(row) if row["routed"] else {},
        on_hold=DEDICATED if row["on_hold"] else (),
    )
