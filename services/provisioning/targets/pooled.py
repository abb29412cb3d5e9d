"""The pooled target: tenants share the services and their databases, and rows keep them apart."""

from typing import Any
from uuid import UUID

from chassis.service import Service
from services.provisioning.domain.saga import Command


class Pooled:
    """One cell for all."""

    dedicated = False

    def refusal(self) -> str | None:
        """Refuse nobody: it is what every installation has."""
        return None

    def placement(self, _tenant_id: UUID) -> str:
        """Return the cell's name."""
        return "cell-1"

    async def do(self, _service: Service, _deployment: Any, command: Command) -> str | None:
        """Nothing is the target's: all that a tenant needs is there."""
        raise AssertionError(f"no recipe of this target has {command}")
