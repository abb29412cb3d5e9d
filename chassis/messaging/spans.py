"""The spans of an event's way, by OpenTelemetry's conventions for messaging: create, send, process.

An event carries its `create` span as its `traceparent`. The relay's `send` and each consumer's `process` are children
of that span, and what a consumer publishes in answer is created below its `process`: one tree. A batch has events of
many traces, so a span is made by hand for each event, and only for those whose trace is sampled.
"""

import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from opentelemetry.trace import SpanKind

from chassis.messaging import metrics
from chassis.messaging.subscription import Received
from chassis.persistence.database import Transaction
from chassis.telemetry import traces
from chassis.telemetry.traces import Span
from dotmac_contracts.envelope import Envelope, Event

MOST_OF_ONE_CAUSE = 10
"""So many events of one request, job or event are traced further; the rest of a bulk of thousands keep the trace's id
for the logs, and leave no spans."""


class Creation:
    """Says for each event of a publication where in which trace it stands."""

    def __init__(self) -> None:
        self._here = traces.here()
        self._spans: list[Span] = []
        self._of_one: Counter[str] = Counter()

    def traceparent(self, event: Event, event_id: UUID, cause: Envelope | None) -> str | None:
        """Return the event's `traceparent`, below its own cause and not below that of the batch."""
        parent = (cause.traceparent if cause else None) or self._here
        if parent is None or not traces.sampled(parent):
            return parent
        self._of_one[parent] += 1
        if self._of_one[parent] > MOST_OF_ONE_CAUSE:
            return traces.unsampled(parent)
        topic = event.TOPIC.name
        attributes = _attributes("create", topic, event_id, event.tenant_id, event.key, event.TYPE)
        span = traces.start(f"create {topic}", SpanKind.PRODUCER, parent, attributes)
        if span is None:
            return None
        self._spans.append(span)
        return span.traceparent

    def end(self) -> None:
        """End the spans of the events, which are committed now; those of events that never are leave none."""
        for span in self._spans:
            span.end()


def sent(headers: Mapping[str, str], topic: str, partition: int, offset: int, started_ns: int) -> None:
    """Record that an event of a sampled trace was sent and acknowledged."""
    attributes = {
        **_attributes(
            "send", topic, headers["ce_id"], headers["ce_tenantid"], headers["ce_partitionkey"], headers["ce_type"]
        ),
        "messaging.destination.partition.id": str(partition),
        "messaging.kafka.offset": offset,
    }
    span = traces.start(f"send {topic}", SpanKind.CLIENT, headers["traceparent"], attributes, started_ns=started_ns)
    if span is not None:
        span.end()


@contextlib.contextmanager
def handling(
    tx: Transaction, consumer: str, kind: type[Event], received: Sequence[Received[Any]]
) -> Iterator[Sequence[Received[Any]]]:
    """Observe how a consumer handles new events of one type: counts, times, and a span for each that is traced.

    Gives the events to handle: in their envelopes stand their `process` spans, so that their answers are below those.
    """
    started = time.perf_counter()
    processing: list[Span] = []
    events = [_processed(consumer, item, len(received), processing) for item in received]
    places = {item.envelope.traceparent for item in events}
    place = places.pop() if len(places) == 1 else None
    try:
        with traces.within(place, processing[0] if processing and len(events) == 1 else None):
            yield events
    except BaseException as error:
        # A batch that fails is undone, and its events come again one by one; those attempts are recorded.
        for span in processing if len(events) == 1 else ():
            span.fail(type(error).__name__, str(error))
            span.end()
        raise
    tx.after_commit(partial(_handled, consumer, kind, events, processing, started))


def _processed(consumer: str, item: Received[Any], batch: int, made: list[Span]) -> Received[Any]:
    envelope: Envelope = item.envelope
    if not traces.sampled(envelope.traceparent):
        return item
    topic = item.event.TOPIC.name
    attributes = {
        **_attributes("process", topic, envelope.id, envelope.tenantid, envelope.partitionkey, envelope.type),
        "messaging.consumer.group.name": consumer,
        "messaging.batch.message_count": batch,
    }
    span = traces.start(f"process {topic}", SpanKind.CONSUMER, envelope.traceparent, attributes)
    if span is None:
        return item
    made.append(span)
    return replace(item, envelope=envelope._replace(traceparent=span.traceparent))


def _handled(
    consumer: str, kind: type[Event], events: Sequence[Received[Any]], processing: Sequence[Span], started: float
) -> None:
    event = metrics.label(kind)
    metrics.CONSUMED.labels(consumer, event, "handled").inc(len(events))
    metrics.HANDLING_SECONDS.labels(consumer, event).observe(time.perf_counter() - started)
    delay = (datetime.now(UTC) - events[0].envelope.time).total_seconds()
    metrics.EVENT_DELAY_SECONDS.labels(consumer, event).observe(max(0.0, delay))
    for span in processing:
        span.end()


def _attributes(
    operation: str, topic: str, event_id: object, tenant_id: object, key: str, kind: str
) -> dict[str, str | int]:
    return {
        "messaging.system": "kafka",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": topic,
        "messaging.message.id": str(event_id),
        "messaging.kafka.message.key": key,
        "dotmac.event.type": kind,
        traces.TENANT: str(tenant_id),
    }
