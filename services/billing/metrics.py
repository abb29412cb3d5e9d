"""What billing has done, in figures for charts and alerts. Books are kept in the ledger, not here."""

from functools import partial

from prometheus_client import Counter

from chassis.money import exponent
from chassis.persistence.database import Transaction

INVOICES = Counter("dotmac_invoices_issued_total", "Invoices issued.", ["currency"])
INVOICED = Counter("dotmac_invoiced_amount_total", "Money invoiced, in the currency's major unit.", ["currency"])
PAYMENTS = Counter("dotmac_payments_received_total", "Payments received.", ["currency"])
RECEIVED = Counter("dotmac_received_amount_total", "Money received, in the currency's major unit.", ["currency"])


def issued(tx: Transaction, invoices: int, amount_minor: int, currency: str) -> None:
    """Count invoices of one currency once they are committed."""
    _count(tx, INVOICES, INVOICED, invoices, amount_minor, currency)


def received(tx: Transaction, amount_minor: int, currency: str) -> None:
    """Count a payment once it is committed."""
    _count(tx, PAYMENTS, RECEIVED, 1, amount_minor, currency)


def _count(tx: Transaction, number: Counter, amount: Counter, many: int, amount_minor: int, currency: str) -> None:
    tx.after_commit(partial(number.labels(currency).inc, many))
    tx.after_commit(partial(amount.labels(currency).inc, amount_minor / 10 ** exponent(currency)))
