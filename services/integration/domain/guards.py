"""Who may be told of which events: those of a domain go to whom the API lets read what they are about."""

from collections.abc import Collection

GUARDS = {"billing": "billing:read", "customer": "customers:read"}
"""The scope that guards the events of a domain, by the domain. Those of other domains take none beside the feed's."""


def guards_of(event_types: Collection[str]) -> frozenset[str]:
    """Return the scopes that it takes to be told of events of these types; naming no type means all of them."""
    domains = {event_type.split(".")[1] for event_type in event_types} if event_types else GUARDS.keys()
    return frozenset(GUARDS[domain] for domain in domains & GUARDS.keys())


def hidden_from(scopes: Collection[str]) -> list[str]:
    """Return the domains whose events are not told to whom has these scopes."""
    return [domain for domain, scope in GUARDS.items() if scope not in scopes]
