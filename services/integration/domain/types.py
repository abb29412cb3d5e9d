"""Which events an endpoint, or a reader of the feed, wants."""

from collections.abc import Collection


def wants(event_types: Collection[str], event_type: str) -> bool:
    """Whether events of a type are wanted; naming no type means all, and those to come."""
    return not event_types or event_type in event_types
