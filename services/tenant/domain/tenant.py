"""A tenant: an ISP on the platform, and the states of its life."""

import re
from collections.abc import Mapping
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
    SUSPENDED = "suspended"
    MAINTENANCE = "maintenance"
    DEPROVISIONING = "deprovisioning"
    DEPROVISIONED = "deprovisioned"
    FAILED = "failed"


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.REGISTERED: frozenset({Status.DEPLOYING, Status.DEPROVISIONING}),
    Status.DEPLOYING: frozenset({Status.ACTIVE, Status.FAILED}),
    Status.ACTIVE: frozenset({Status.SUSPENDED, Status.MAINTENANCE, Status.DEPROVISIONING}),
    Status.SUSPENDED: frozenset({Status.ACTIVE, Status.DEPROVISIONING}),
    Status.MAINTENANCE: frozenset({Status.ACTIVE, Status.DEPROVISIONING}),
    Status.FAILED: frozenset({Status.DEPLOYING, Status.DEPROVISIONING}),
    # Back to where it was, until the first row is deleted.
    Status.DEPROVISIONING: frozenset(
        {
            Status.DEPROVISIONED,
            Status.REGISTERED,
            Status.ACTIVE,
            Status.SUSPENDED,
            Status.MAINTENANCE,
            Status.FAILED,
        }
    ),
    Status.DEPROVISIONED: frozenset(),
}
"""From which status a tenant can go to which."""


class Operation(StrEnum):
    """What a deployment does with a tenant."""

    DEPLOY = "deploy"
    SUSPEND = "suspend"
    MAINTAIN = "maintain"
    RESUME = "resume"
    UPGRADE = "upgrade"
    SCALE = "scale"
    ROLL_BACK = "roll_back"
    MOVE = "move"
    DEPROVISION = "deprovision"


OF_INSTANCES = frozenset({Operation.UPGRADE, Operation.SCALE, Operation.ROLL_BACK})
"""What is done with the instances that a tenant has of its own."""


class Target(StrEnum):
    """Where a tenant can be deployed to."""

    POOLED = "pooled"
    PROCESS = "process"
    CONTAINER = "container"


_BEGINS_IN: Mapping[Operation, frozenset[Status]] = {
    Operation.DEPLOY: frozenset({Status.REGISTERED, Status.FAILED}),
    Operation.SUSPEND: frozenset({Status.ACTIVE}),
    Operation.MAINTAIN: frozenset({Status.ACTIVE}),
    Operation.RESUME: frozenset({Status.SUSPENDED, Status.MAINTENANCE}),
    **dict.fromkeys(OF_INSTANCES, frozenset({Status.ACTIVE, Status.SUSPENDED, Status.MAINTENANCE})),
    Operation.MOVE: frozenset({Status.ACTIVE, Status.SUSPENDED, Status.MAINTENANCE}),
    Operation.DEPROVISION: frozenset(
        {
            Status.REGISTERED,
            Status.ACTIVE,
            Status.SUSPENDED,
            Status.MAINTENANCE,
            Status.DEPROVISIONING,
            Status.FAILED,
        }
    ),
}


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

    def order(self, operation: Operation, deployment_id: UUID) -> "Tenant":
        """Begin an operation where its status allows it; that changes the status of one that is deployed only."""
        if self.status not in _BEGINS_IN[operation]:
            those = " or ".join(sorted(_BEGINS_IN[operation]))
            raise Refused(f"the tenant is {self.status}: to {operation} it, it has to be {those}")
        return self.go(Status.DEPLOYING, deployment_id) if operation is Operation.DEPLOY else self

    def target(self, operation: Operation, wanted: Target | None, last: Target | None) -> Target:
        """Return where an operation is done: a deployment or a move where it is wanted, all else where the tenant is.

        `last`: where the last operation was. Refused if another target is wanted than the one where it is, and what
        needs instances of its own where it has none.
        """
        if operation is Operation.DEPLOY:
            return wanted or Target.POOLED
        where = Target.POOLED if last is None or self.status in (Status.REGISTERED, Status.FAILED) else last
        if operation is Operation.MOVE:
            if wanted is None or wanted is where:
                raise Refused(f"the tenant is at the target {where}: to move it, another one has to be named")
            if Target.POOLED not in (where, wanted):
                raise Refused(f"from {where} to {wanted} a tenant is moved by way of {Target.POOLED}")
            return wanted
        if wanted not in (None, where):
            raise Refused(f"the tenant is at the target {where}: to {operation} it elsewhere is not possible")
        if operation in OF_INSTANCES and where is Target.POOLED:
            raise Refused("the tenant has no instances of its own; those that it shares are the platform's")
        return where

    def go(self, status: Status, deployment_id: UUID | None) -> "Tenant":
        """Go to a status, for a deployment; where it is there already, nothing changes."""
        if status is self.status:
            return self
        if status not in TRANSITIONS[self.status]:
            raise Refused(f"the tenant is {self.status}, and can't become {status}")
        return self._changed(status=status, deployment_id=deployment_id)

    def deployment_ended(self, deployment_id: UUID, *, succeeded: bool) -> "Tenant":
        """Take note of an end; that of a deployment that is not the current one changes nothing."""
        if self.status != Status.DEPLOYING or self.deployment_id != deployment_id:
            return self
        return self.go(Status.ACTIVE if succeeded else Status.FAILED, deployment_id)

    def deployment_retried(self, deployment_id: UUID) -> "Tenant":
        """Take note that the deployment which failed is tried again; that of an operation changes nothing yet."""
        if self.status != Status.FAILED or self.deployment_id != deployment_id:
            return self
        return self.go(Status.DEPLOYING, deployment_id)

    def update(self, profile: Profile) -> "Tenant":
        """Change the profile; slug and currency are what others have built on."""
        if (profile.slug, profile.currency) != (self.profile.slug, self.profile.currency):
            raise Refused("slug and currency can't be changed")
        return self if profile == self.profile else self._changed(profile=profile)

    def told(self, events: int) -> "Tenant":
        """Count events that tell of the tenant without changing it."""
        return replace(self, version=self.version + events)

    def _changed(self, **changes: object) -> "Tenant":
        return replace(self, version=self.version + 1, **changes)  # type: ignore[arg-type]
