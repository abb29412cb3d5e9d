"""When an invoice is due."""

from datetime import date, timedelta

PAYMENT_TERMS_DAYS = 14
"""Where the ISP's settings say nothing else."""


def due_on(issued_on: date, payment_terms_days: int | None) -> date:
    """Return the day by which an invoice is to be paid."""
    return issued_on + timedelta(days=terms(payment_terms_days))


def terms(payment_terms_days: int | None) -> int:
    """Return how many days there are to pay, where an ISP's settings say so many, or nothing."""
    return PAYMENT_TERMS_DAYS if payment_terms_days is None else payment_terms_days
