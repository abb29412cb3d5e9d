"""A tenant: an ISP on the platform, and the states of its life."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID
from zoneinfo import available_timezones

from chassis.money import EXPONENTS

_SLUG = re.compile(r"[a-z][a-z0-9-]{1,38}[a-z0-9]")


class Status(StrEnum):
    REGISTERED = "registered"
    DEPLOYING = "deploying"
    ACTIVE = "active"
    FAILED = "failed"


class Refused(Exception):
    """The tenant's state or data forbids it."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of an ISP. Raises Refused when it can't be."""

    name: str
    slug: str
    contact_email: str
    plan: str
    currency: str
    country: str
    time_zone: str

    def __post_init__(self) -> None:
        if not _SLUG.fullmatch(self.slug):
            raise Refused("slug needs 3 to 40 lower-case letters, digits and hyphens, and starts with a letter")
        if self.currency not in EXPONENTS:
            raise Refused(f"currency {self.currency!r} is not an ISO 4217 code")
        if not re.fullmatch("[A-Z]{2}", self.country):
            raise Refused(f"country {self.country!r} is not an ISO 3166-1 alpha-2 code")
        if self.time_zone not in available_timezones():
            raise Refused(f"time zone {self.time_zone!r} is not an IANA name")


@dataclass(frozen=True, slots=True)
class Tenant:
    id: UUID
    profile: Profile
    status: Status
    version: int
    deployment_id: UUID | None = None

    def request_deployment(self, deployment_id: UUID) -> "Tenant":
        """Start a deployment; one at a time, and none for a tenant that is active."""
        if self.status not in (Status.REGISTERED, Status.FAILED):
            raise Refused(f"the tenant is {self.status}: only a registered or failed one can be deployed")
        return self._changed(status=Status.DEPLOYING, deployment_id=deployment_id)

    def deployment_ended(self, deployment_id: UUID, *, succeeded: bool) -> "Tenant":
        """Take note of an end; that of a deployment that is not the current one changes nothing."""
        if self.status != Status.DEPLOYING or self.deployment_id != deployment_id:
            return self
        return self._changed(status=Status.ACTIVE if succeeded else Status.FAILED)

    def update(self, profile: Profile) -> "Tenant":
        """Change the profile; slug and currency are what others have built on."""
        if (profile.slug, profile.currency) != (self.profile.slug, self.profile.currency):
            raise Refused("slug and currency can't be changed")
        return self if profile == self.profile else self._changed(profile=profile)

    def _changed(self, **changes: object) -> "Tenant":
        return replace(self, version=self.version + 1, **changes)  # type: ignore[arg-type]
