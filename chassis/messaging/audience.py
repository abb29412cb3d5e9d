"""Whose events an instance of a service takes, where tenants may have instances of their own.

A tenant's own instance takes what concerns its tenant. The shared ones leave alone what is asked of such an instance,
and what it tells. The events alone say so: nothing that decides it could be late.
"""

from collections.abc import Collection
from uuid import UUID

from dotmac_contracts.envelope import Event
from dotmac_contracts.provisioning import OfWorkspace

_SHARED_SEGMENTS = 2
"""Slashes of a source such as `/services/customer`; a tenant's own instance has its tenant behind another one."""


class Audience:
    """Says what an instance takes."""

    def __init__(self, dedicated_to: UUID | None) -> None:
        self._tenant = None if dedicated_to is None else str(dedicated_to)

    def group(self, consumer: str) -> str:
        """Return the consumer group in which the instance reads: a tenant's own reads all, and shares with none."""
        return consumer if self._tenant is None else f"{consumer}-{self._tenant}"

    def includes(self, headers: Collection[tuple[str, bytes]], *, of_instances: bool = False) -> bool:
        """Say whether a record is to be read, from its headers as they came: what can't be read is the shared ones'.

        of_instances: whether for a subscription to what tenants' own instances tell.
        """
        if self._tenant is not None:
            return ("ce_tenantid", self._tenant.encode()) in headers
        source = next((value for name, value in headers if name == "ce_source"), b"")
        return (source.count(b"/") > _SHARED_SEGMENTS) == of_instances

    def is_asked(self, event: Event) -> bool:
        """Say whether it is this instance that an event asks, if it asks any."""
        return self._tenant is not None or not (isinstance(event, OfWorkspace) and event.dedicated)
