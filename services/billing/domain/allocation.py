"""A payment pays the oldest open invoices first; what is left is credit."""

from collections.abc import Sequence


def allocate_oldest_first(amount_minor: int, open_minor: Sequence[int]) -> list[int]:
    """Return how much goes to each open invoice, given oldest first; all amounts in minor units."""
    parts = []
    for owed in open_minor:
        part = min(owed, amount_minor)
        parts.append(part)
        amount_minor -= part
    return parts
