"""What a caller may give to others, or have power over."""

from chassis.http.problem import Problem
from chassis.security.principals import Principal


def not_more_than_own(who: Principal, scopes: frozenset[str]) -> None:
    """Problem 403 if these scopes are more than the caller's: nobody gives, or has power over, more than he has."""
    beyond = sorted(scopes - who.scopes)
    if beyond:
        raise Problem(403, "more-than-own-scopes", f"You have not the scope {' '.join(beyond)} yourself.")
