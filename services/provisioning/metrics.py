"""How deployments end, in figures for charts and alerts."""

from datetime import timedelta
from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from chassis.persistence.database import Transaction
from services.provisioning.domain.drift import Kind
from services.provisioning.domain.saga import RECIPES, Saga

_OUTCOMES = ("succeeded", "failed")

SECONDS = Histogram(
    "dotmac_deployment_seconds",
    "Time from the request of a deployment to its end.",
    ["target", "operation", "outcome"],
    buckets=(0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
)
for _target, _operations in RECIPES.items():
    for _operation in _operations:
        for _outcome in _OUTCOMES:
            SECONDS.labels(_target, _operation, _outcome)  # known beforehand, so that the first failure is an increase

DRIFTS_FOUND = Counter("dotmac_drifts_found_total", "Drifts that were found.", ["kind"])
DRIFTS_OPEN = Gauge("dotmac_drifts_open", "Drifts that are not resolved yet.", ["kind"])
for _kind in Kind:
    DRIFTS_FOUND.labels(_kind)


def ended(tx: Transaction, saga: Saga, took: timedelta) -> None:
    """Count a deployment that ended, once that is committed."""
    tx.after_commit(partial(SECONDS.labels(saga.target, saga.operation, saga.status).observe, took.total_seconds()))
