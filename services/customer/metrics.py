"""What became of customers, in figures for charts and alerts."""

from functools import partial

from prometheus_client import Counter

from chassis.persistence.database import Transaction

CREATED = Counter("dotmac_customers_created_total", "Customers created, one by one or by an import.", ["status"])
TERMINATED = Counter("dotmac_customers_terminated_total", "Customers that were active and are no longer.")


def created(tx: Transaction, status: str, number: int = 1) -> None:
    """Count customers created as active, or as terminated already, once they are committed."""
    if number:
        tx.after_commit(partial(CREATED.labels(status).inc, number))


def terminated(tx: Transaction, number: int = 1) -> None:
    """Count customers who left, once that is committed."""
    if number:
        tx.after_commit(partial(TERMINATED.inc, number))
