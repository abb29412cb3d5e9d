"""Nobody has other systems told what he may not read himself."""

from collections.abc import Collection

from chassis.http.problem import Problem
from chassis.security.principals import Principal
from services.integration.domain.guards import guards_of


def may_read(who: Principal, event_types: Collection[str]) -> None:
    """Problem 403 if the caller lacks scopes to read events of these types; naming no type means all of them."""
    beyond = sorted(guards_of(event_types) - who.scopes)
    if beyond:
        raise Problem(403, "more-than-own-scopes", f"You have not the scope {' '.join(beyond)} yourself.")
