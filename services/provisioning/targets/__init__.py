"""Where tenants can be deployed to. What targets share is the saga's; each says and does what is different there."""

from collections.abc import Mapping
from typing import Any, Protocol
from uuid import UUID

from chassis.service import Service
from services.provisioning.domain.saga import Command
from services.provisioning.targets.container import Container
from services.provisioning.targets.pooled import Pooled
from services.provisioning.targets.process import Process


class Target(Protocol):
    """A place for tenants."""

    @property
    def dedicated(self) -> bool:
        """Whether a tenant gets databases and instances of its own there."""

    def refusal(self) -> str | None:
        """Return why no tenant can be deployed there by this installation; None if it can."""

    def placement(self, tenant_id: UUID) -> str:
        """Return the name of the databases and processes that a tenant gets there."""

    async def do(self, service: Service, deployment: Any, command: Command) -> str | None:
        """Do one of the commands that are the target's, as often as it takes; return what is wrong yet, or None.

        deployment: its row. What is done already is left as it is.
        """


TARGETS: Mapping[str, Target] = {"pooled": Pooled(), "process": Process(), "container": Container()}
"""By the names under which deployments are ordered."""
