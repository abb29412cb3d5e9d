"""What tells every process that verifies tokens whom it may let in: the tenant service's events.

Such a process reads whole topics when it starts, which are short or compacted, and follows them from then on. It
belongs to no consumer group and keeps no offset: each process needs every event, and none is an effect to happen once.
Requests never wait for the broker. While it is away, tokens are believed as far as is known: what can't be reached
would otherwise end all work of all tenants.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Protocol

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from prometheus_client import Gauge

from chassis.messaging.positions import positions
from chassis.messaging.security import client_security
from chassis.settings import KafkaSettings
from dotmac_contracts.envelope import DecodeError, Envelope, Event, UnknownEventType, decode
from dotmac_contracts.topics import Topic

log = structlog.get_logger()

CURRENT = Gauge(
    "dotmac_revocations_current",
    "1 while the process knows all revoked tokens and every tenant's status, 0 while it can't read of them.",
    ["service"],
)

_PATIENCE_SECONDS = 10.0
_RETRY_SECONDS = 2.0
_CATCHING_UP_SECONDS = 0.05
_WATCH_SECONDS = 5.0
_REQUEST_SECONDS = 5
_IDLE_MS = 1000
_MOST_AT_ONCE = 500
"""Records after which others get their turn of the event loop."""


class Knowledge(Protocol):
    """What is known from the events of a topic. An event that comes again, or late, changes nothing."""

    topic: Topic

    def hear(self, envelope: Envelope, event: Event) -> None:
        """Take note of an event; those that say nothing of it pass by."""

    def forget_expired(self, now: datetime) -> None:
        """Drop what can't matter any more."""


class Follower:
    """Reads what tells of revoked tokens and tenants' status until it is stopped."""

    def __init__(self, service: str, settings: KafkaSettings, *knowledge: Knowledge) -> None:
        self._service = service
        self._settings = settings
        self._knowledge = {part.topic.name: part for part in knowledge}
        self._caught_up = asyncio.Event()
        self._current: bool | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin, and return once all is known that was told before; after ten seconds without it."""
        CURRENT.labels(self._service).set(0)
        self._task = asyncio.create_task(self._run(), name="revocations")
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._caught_up.wait()
        except TimeoutError:
            log.warning("revocations_not_known", waited_seconds=_PATIENCE_SECONDS)

    async def stop(self) -> None:
        """Stop reading."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            consumer = AIOKafkaConsumer(
                *self._knowledge,
                bootstrap_servers=self._settings.kafka_bootstrap_servers,
                **client_security(self._settings),
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                request_timeout_ms=_REQUEST_SECONDS * 1000,
            )
            watching: asyncio.Task[None] | None = None
            try:
                await consumer.start()
                watching = asyncio.create_task(self._watch(consumer), name="revocations-watch")
                while True:
                    batches = await consumer.getmany(timeout_ms=_IDLE_MS, max_records=_MOST_AT_ONCE)
                    for place, records in batches.items():
                        self._take(self._knowledge[place.topic], records)
            except Exception as error:  # whatever it is: who gave up would believe revoked tokens from then on
                self._is_current(False, repr(error))
            finally:
                if watching:
                    watching.cancel()
                with contextlib.suppress(Exception):
                    await consumer.stop()
            await asyncio.sleep(_RETRY_SECONDS)

    def _take(self, knowledge: Knowledge, records: "Sequence[ConsumerRecord[bytes, bytes]]") -> None:
        for record in records:
            try:
                knowledge.hear(*decode(record.headers, record.value))
            except UnknownEventType:
                continue
            except DecodeError as error:
                log.error(
                    "revocation_unreadable",
                    topic=record.topic,
                    partition=record.partition,
                    offset=record.offset,
                    reason=str(error),
                )

    async def _watch(self, consumer: "AIOKafkaConsumer[bytes, bytes]") -> None:
        """Tell whether all is read, which a consumer alone does not say: a broker that is away looks like no news."""
        while True:
            try:
                async with asyncio.timeout(_REQUEST_SECONDS + 1):
                    found = await positions(consumer)
                if found and all(read == end for read, end in found.values()):
                    self._is_current(True)
            except Exception as error:
                self._is_current(False, repr(error))
            for part in self._knowledge.values():
                part.forget_expired(datetime.now(UTC))
            await asyncio.sleep(_WATCH_SECONDS if self._caught_up.is_set() else _CATCHING_UP_SECONDS)

    def _is_current(self, current: bool, reason: str = "") -> None:
        CURRENT.labels(self._service).set(current)
        if current:
            self._caught_up.set()
        if current != self._current:
            self._current = current
            if current:
                log.info("revocations_known")
            else:
                log.warning("revocations_not_followed", error=reason)
