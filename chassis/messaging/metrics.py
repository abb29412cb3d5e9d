"""The metrics of the event path. Their labels are names from the code: services, consumers, event types, topics."""

from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

from dotmac_contracts.envelope import Event

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

PUBLISHED = Counter("dotmac_events_published_total", "Events that a use case committed to the outbox.", ["event"])

OUTBOX_DEPTH = Gauge("dotmac_outbox_depth", "Events that wait in the outbox; counted up to 100,000.", ["service"])
OUTBOX_AGE = Gauge("dotmac_outbox_age_seconds", "Age of the oldest event that waits in the outbox.", ["service"])
OUTBOX_DEAD_ROWS = Gauge(
    "dotmac_outbox_dead_rows", "Rows taken off the outbox that vacuum has not removed yet.", ["service"]
)
RELAY_LEADER = Gauge("dotmac_relay_leader", "1 if this process leads the relay of its service.", ["service"])
RELAYED = Counter("dotmac_relay_events_total", "Events acknowledged by the broker.", ["service"])
RELAY_BATCH_SECONDS = Histogram(
    "dotmac_relay_batch_seconds",
    "Time to send a batch of the outbox, until the broker has all of it.",
    ["service"],
    buckets=_SECONDS,
)

CONSUMED = Counter(
    "dotmac_consumer_events_total",
    "Events by what became of them: handled, duplicate, dead or parked.",
    ["consumer", "event", "outcome"],
)
HANDLING_SECONDS = Histogram(
    "dotmac_consumer_handling_seconds",
    "Time from the first statement of an event type's part of a batch to the commit of the batch.",
    ["consumer", "event"],
    buckets=_SECONDS,
)
EVENT_DELAY_SECONDS = Histogram(
    "dotmac_event_delay_seconds",
    "Time from an event to its committed effect, of the oldest event of its type in a batch.",
    ["consumer", "event"],
    buckets=_SECONDS,
)
POSTPONED = Counter("dotmac_consumer_postponed_total", "Batches put off by a transient error.", ["consumer"])
LAG = Gauge("dotmac_consumer_lag", "Events that a consumer has not handled yet.", ["consumer", "topic"])
DEAD_LETTERS = Gauge("dotmac_dead_letters_open", "Dead letters, and events parked behind them.", ["consumer"])

UNREADABLE = "unreadable"
"""The event type of a record that can't be decoded."""


def label(kind: type[Event]) -> str:
    """Return an event type as a label: `billing.InvoiceIssued`."""
    return kind.TYPE.removeprefix("dotmac.")


def count_published(events: Iterable[Event]) -> None:
    """Count events that were committed to the outbox, by their type."""
    for kind, number in Tally(map(type, events)).items():
        PUBLISHED.labels(label(kind)).inc(number)
