"""Where tenants can be deployed to. What targets share is the saga's; each says what is different there."""

from collections.abc import Mapping
from typing import Protocol
from uuid import UUID

from services.provisioning.targets.pooled import Pooled


class Target(Protocol):
    """A place for tenants."""

    def placement(self, tenant_id: UUID) -> str:
        """Return the name of the databases and processes that a tenant gets there."""


TARGETS: Mapping[str, Target] = {"pooled": Pooled()}
"""By the names under which deployments are ordered."""
