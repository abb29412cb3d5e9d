"""The tenants' own instances: how they are named, what they are told, where they answer, and what they run in."""

import asyncio
import base64
import hmac
import os
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from chassis.settings import Settings
from deploy.prepare import database_url
from deploy.roles import ROLES, login
from dotmac_contracts.provisioning import DEDICATED, RouteAssigned, RouteWithdrawn

LOOPBACK = "127.0.0.1"
STARTING = 0
"""In place of what one that is about to start is known by."""
_PROVISIONINGS_OWN = ("DEPLOYMENT_", "MIGRATION_", "BOOTSTRAP_", "DOCKER_", "DOTMAC_", "SECRET_KEY", "JWT_SECRET_KEY")


class Instance(NamedTuple):
    """One that was started: by what it is known where it runs, and where it answers, unless nobody is to ask it."""

    known_by: int | str
    host: str | None = None
    port: int | None = None
    alive: bool = True
    """Whether it runs; else it ended, and is still there."""


class InstanceError(Exception):
    """What instances run in refuses something, or does not answer; the message says what."""


class Host(Protocol):
    """What the instances of a target run in."""

    @property
    def parts(self) -> Sequence[str]:
        """What a tenant has there that runs: the services it has instances of, and what these need."""

    async def running(self) -> Mapping[UUID, Mapping[str, Instance]]:
        """Return what there is, by tenant and part; InstanceError if nobody can tell now."""

    async def start(
        self, tenant_id: UUID, parts: Collection[str], ports: Mapping[str, int], release: str | None
    ) -> Mapping[str, Instance]:
        """Start these parts of a tenant, of a release, and return all of its own.

        At the ports where they were before, if that can be. Without a release they are of the newest.
        """

    async def stop(self, tenant_id: UUID, running: Mapping[str, Instance]) -> None:
        """End these parts of a tenant."""

    async def get_ready(self) -> None:
        """Do what takes its time before the first one starts; InstanceError if it can't be done."""

    async def let_go(self) -> None:
        """End all that must not outlive its supervisor."""


async def together(*work: Awaitable[None]) -> None:
    """Do several things at once, and raise what the first of them failed with once all have ended."""
    for result in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


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


def sealing_secrets(settings: Settings, name: str) -> list[str]:
    """Return the secrets that open what an instance has sealed; the first one seals."""
    return [derived(secret, f"the instance {name}") for secret in settings.sealing_secrets]


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
    signs_nothing = derived(settings.secret_key.get_secret_value(), f"the tokens of the instance {name}")
    return {
        **urls,
        **dict(zip(keys, sealing_secrets(settings, name), strict=False)),
        "JWT_SECRET_KEY": signs_nothing,
        "ROLES": "api,consumer,relay",
        "DEDICATED_TO": str(tenant_id),
    }


def passed_on() -> dict[str, str]:
    """Return what an instance has from provisioning's environment: all but what is provisioning's own."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_PROVISIONINGS_OWN)}


def instances_of(row: Any) -> list[str]:
    """Return the instances that a tenant is to have, as parts: `<service>-<generation>-<number>`.

    row: of `instance`. Those of a generation are of one release; those of the next one replace them.
    """
    numbers = range(1, row["instances"] + 1)
    return [f"{service}-{row['generation']}-{number}" for service in DEDICATED for number in numbers]


def parts_of(row: Any, parts: Collection[str]) -> list[str]:
    """Return all that is to run for a tenant, of what there is at its target."""
    return [*(part for part in parts if part not in DEDICATED), *instances_of(row)]


def service_of(part: str) -> str:
    """Return of what service an instance is."""
    return part.partition("-")[0]


def serving(row: Any) -> list[str]:
    """Return the instances to which a tenant's requests go, or will go when it has a route."""
    chosen: list[str] | None = row["serving"]
    return instances_of(row) if chosen is None else chosen


def addresses_of(row: Any, parts: Collection[str]) -> dict[str, str]:
    """Return where instances of a tenant answer, as far as that is known."""
    hosts, ports = row["hosts"], row["ports"]
    return {part: f"http://{hosts.get(part, LOOPBACK)}:{ports[part]}" for part in parts if part in ports}


def route_of(row: Any) -> RouteAssigned | RouteWithdrawn:
    """Return where a tenant's requests go, to be told: to its instances, but not before it has moved there."""
    if not row["routed"] and not row["on_hold"]:
        return RouteWithdrawn(tenant_id=row["tenant_id"])
    addresses: dict[str, list[str]] = {}
    for part, address in addresses_of(row, serving(row) if row["routed"] else ()).items():
        addresses.setdefault(service_of(part), []).append(address)
    return RouteAssigned(
        tenant_id=row["tenant_id"],
        deployment_id=row["deployment_id"],
        addresses={service: ",".join(each) for service, each in addresses.items()},
        on_hold=DEDICATED if row["on_hold"] else (),
    )
