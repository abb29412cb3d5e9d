"""Drift: where the world is not as provisioning's records say, and what can be done about it by itself."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID


class Kind(StrEnum):
    """What can be wrong with a tenant."""

    WORKSPACE_MISSING = "workspace_missing"
    WORKSPACE_LEFT = "workspace_left"
    DATABASE_MISSING = "database_missing"
    """Of its own, where it has its own."""
    ADMINISTRATOR_MISSING = "administrator_missing"
    STANDING_DIFFERS = "standing_differs"
    """The gateway lets in who is to be refused, or refuses who is to be let in."""
    STATUS_DIFFERS = "status_differs"
    """The tenant's status is not what its last deployment led to."""


class Remedy(StrEnum):
    """What is done about it. The first two are operations, which do it."""

    REPAIR = "repair"
    REPAIR_ADMINISTRATOR = "repair_administrator"
    TELL_AGAIN = "tell_again"
    """The end of the last deployment, which the tenant service has not heard of."""
    REPORT = "report"


@dataclass(frozen=True, slots=True)
class Record:
    """What provisioning knows of a tenant: its last deployment but for neutral ones, and what all of them have done."""

    deployment_id: UUID
    operation: str
    status: str
    stuck: bool
    """Whether it left something that could not be undone."""
    brought: str | None
    """The last operation that succeeded."""
    leaving: bool
    """Whether a deprovisioning has begun to delete."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the world answered. None where nobody could tell."""

    status: str
    deployment_id: UUID | None
    """The tenant service's: of the deployment that the tenant's status comes from."""
    workspaces: Mapping[str, bool | None]
    """By the path that was asked."""
    refused_as: str | None
    """The kind of problem with which the gateway refuses the tenant's users; `""` if it lets them in."""
    administrator: bool | None
    lost: Collection[str] | None = ()
    """The databases of its own that are not there."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A drift, and what is to be done about it."""

    kind: Kind
    detail: str
    remedy: Remedy


_LEADS_TO = {
    "deploy": "active",
    "suspend": "suspended",
    "maintain": "maintenance",
    "resume": "active",
    "deprovision": "deprovisioned",
}
NEUTRAL = frozenset({"repair", "repair_administrator", "upgrade", "scale", "roll_back", "move"})
"""Operations after which a tenant is what it was before."""
_DEPLOYED = frozenset({"active", "suspended", "maintenance"})
_WITHOUT = frozenset({"registered", "failed", "deprovisioned"})


def expected(record: Record | None) -> frozenset[str] | None:
    """Return the statuses that a tenant can have when nothing is under way; None if the record can't tell."""
    if record is None:
        return frozenset({"registered"})
    if record.status == "succeeded":
        return frozenset({_LEADS_TO[record.operation]})
    if record.leaving:
        return frozenset({"deprovisioning", "deprovisioned"})
    if record.stuck:
        return None
    if record.operation == "deploy":
        return frozenset({"failed"})
    # It was undone: the tenant is where it was.
    return frozenset({_LEADS_TO[record.brought]}) if record.brought else frozenset({"registered", "failed"})


def drifts(record: Record | None, seen: Seen, refusal: str | None) -> dict[Kind, Finding | None]:
    """Return what is wrong, by kind: None where all is well, and nothing where nobody could tell.

    refusal: the kind of problem with which the tenant's users are to be refused in this status, if they are.
    """
    found: dict[Kind, Finding | None] = {}
    wanted = expected(record)
    if wanted is not None:
        found[Kind.STATUS_DIFFERS] = _status(record, seen, wanted)
    if seen.refused_as is not None:
        as_it_is = seen.refused_as == (refusal or "")
        said = f"refuses its users as {seen.refused_as}" if seen.refused_as else "lets its users in"
        detail = f"the gateway {said}, and the tenant is {seen.status}"
        found[Kind.STANDING_DIFFERS] = None if as_it_is else Finding(Kind.STANDING_DIFFERS, detail, Remedy.REPORT)
    if seen.status in _DEPLOYED:
        found |= _of_one_that_is_deployed(seen)
    elif seen.status in _WITHOUT and None not in seen.workspaces.values():
        left = ", ".join(path for path, there in seen.workspaces.items() if there)
        detail = f"GET {left} answered 200, and the tenant is {seen.status}"
        found[Kind.WORKSPACE_LEFT] = Finding(Kind.WORKSPACE_LEFT, detail, Remedy.REPORT) if left else None
    return found


def _of_one_that_is_deployed(seen: Seen) -> dict[Kind, Finding | None]:
    found: dict[Kind, Finding | None] = {Kind.WORKSPACE_LEFT: None}
    missing = [path for path, there in seen.workspaces.items() if there is False]
    if missing:
        detail = f"GET {', '.join(missing)} answered 404"
        found[Kind.WORKSPACE_MISSING] = Finding(Kind.WORKSPACE_MISSING, detail, Remedy.REPAIR)
    elif None not in seen.workspaces.values():
        found[Kind.WORKSPACE_MISSING] = None
    if seen.administrator is not None:
        lacking = Finding(Kind.ADMINISTRATOR_MISSING, "it has no administrator", Remedy.REPAIR_ADMINISTRATOR)
        found[Kind.ADMINISTRATOR_MISSING] = None if seen.administrator else lacking
    if seen.lost is not None:
        # An empty one in its place would hide that the tenant's data is lost.
        detail = f"there is no database {', '.join(sorted(seen.lost))}"
        found[Kind.DATABASE_MISSING] = Finding(Kind.DATABASE_MISSING, detail, Remedy.REPORT) if seen.lost else None
    return found


def _status(record: Record | None, seen: Seen, wanted: frozenset[str]) -> Finding | None:
    if seen.status in wanted:
        return None
    if record is None:
        return Finding(Kind.STATUS_DIFFERS, f"the tenant is {seen.status}, and no deployment is known", Remedy.REPORT)
    detail = f"the tenant is {seen.status}, and its last deployment, {record.operation}, has {record.status}"
    unheard = seen.status == "deploying" and seen.deployment_id == record.deployment_id
    return Finding(Kind.STATUS_DIFFERS, detail, Remedy.TELL_AGAIN if unheard else Remedy.REPORT)
