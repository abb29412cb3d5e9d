"""Nobody has other systems told what he may not read himself."""

from collections.abc import Collection

from chassis.http.authority import not_more_than_own
from chassis.security.principals import Principal
from services.integration.domain.guards import guards_of


def may_read(who: Principal, event_types: Collection[str]) -> None:
    """Problem 403 if the caller lacks scopes to read events of these types; naming no type means all of them."""
    not_more_than_own(who, guards_of(event_types))
