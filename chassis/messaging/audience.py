"""Whose events an instance of a service takes, where tenants may have instances of their own.

A tenant's own instance takes what concerns its tenant. The shared ones leave alone what is asked of such an instance,
and what it tells. The events alone say so: nothing that decides it could be late. One that its tenant was moved to
leaves alone what the tenant's place before it was asked and told.
"""

from collections.abc import Collection
from uuid import UUID

from dotmac_contracts.envelope import Event
from dotmac_contracts.provisioning import DEDICATED, OfWorkspace

_DEDICATED = frozenset(service.encode() for service in DEDICATED)
_SHARED_SEGMENTS = 2
"""Slashes of a source such as `/services/customer`; a tenant's own instance has its tenant behind another one."""


class Audience:
    """Says what an instance takes."""

    def __init__(self, dedicated_to: UUID | None, moved_by: UUID | None = None) -> None:
        """`moved_by`: the deployment that moved the tenant to its instances, if one did."""
        self._tenant = None if dedicated_to is None else str(dedicated_to)
        self._moved_by = moved_by
        self._own_sources = f"/{dedicated_to}/{moved_by}".encode()

    def group(self, consumer: str) -> str:
        """Return the consumer group in which the instance reads: a tenant's own reads all, and shares with none."""
        return consumer if self._tenant is None else f"{consumer}-{self._tenant}"

    def includes(self, headers: Collection[tuple[str, bytes]], *, of_instances: bool = False) -> bool:
        """Say whether a record is to be read, from its headers as they came: what can't be read is the shared ones'.

        of_instances: whether for a subscription to what tenants' own instances tell.
        """
        if self._tenant is not None:
            if ("ce_tenantid", self._tenant.encode()) not in headers:
                return False
            return self._moved_by is None or self._was_told_here(_source(headers))
        source = _source(headers)
        return (source.count(b"/") > _SHARED_SEGMENTS) == of_instances

    def is_asked(self, event: Event) -> bool:
        """Say whether it is this instance that an event asks, if it asks any."""
        if not isinstance(event, OfWorkspace):
            return True
        if self._moved_by is not None:
            return event.dedicated and event.deployment_id > self._moved_by
        return self._tenant is not None or not event.dedicated

    def _was_told_here(self, source: bytes) -> bool:
        """Whether an event of the tenant's is of its instances since it was moved to them, or of the platform."""
        return source.endswith(self._own_sources) or not _DEDICATED.intersection(source.split(b"/")[2:3])


def _source(headers: Collection[tuple[str, bytes]]) -> bytes:
    return next((value for name, value in headers if name == "ce_source"), b"")
