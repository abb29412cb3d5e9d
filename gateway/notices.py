"""Tells the platform of tenants that use up the API calls which their plans allow.

The gateway keeps nothing, so there is no outbox: what it could not send when it ends is not told. Of each tenant and
threshold it tells once an hour at most, and the event's id follows from these three: of what several gateways tell,
subscribers take one.
"""

import asyncio
import contextlib
from collections import deque
from datetime import UTC, datetime
from uuid import NAMESPACE_URL, UUID, uuid5

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from chassis.messaging.security import client_security
from chassis.quotas import THRESHOLDS, Usage
from chassis.settings import KafkaSettings
from dotmac_contracts.envelope import Envelope, encode
from dotmac_contracts.gateway import ApiCallQuotaThresholdReached
from gateway.limits import Policy

log = structlog.get_logger()

_SOURCE = "/services/gateway"
_HOUR_SECONDS = 3600
_LOWEST = THRESHOLDS[0] / 100
_MOST_WAITING = 100_000
_LAST_SECONDS = 2.0
_POLL_SECONDS = 0.02
_FIRST_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS = 0.5, 30.0

_Told = tuple[ApiCallQuotaThresholdReached, Envelope]


class Notices:
    """What is to be told, and what was told within this hour."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._hour = 0
        self._told: set[tuple[UUID, int]] = set()
        self._waiting: deque[_Told] = deque(maxlen=_MOST_WAITING)
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send; it connects when there is something to tell."""
        self._task = asyncio.create_task(self._run(), name="notices")

    async def stop(self) -> None:
        """Send what is there still, if the broker takes it soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                while self._waiting:
                    await asyncio.sleep(_POLL_SECONDS)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def look(self, tenant_id: UUID, plan: Policy, ahead: float) -> None:
        """Tell of the thresholds that a tenant has reached; `ahead`: in how many seconds its quota is whole again."""
        if ahead < _LOWEST * plan.window - plan.share:  # most requests end here
            return
        now = datetime.now(UTC)
        hour = int(now.timestamp()) // _HOUR_SECONDS
        if hour != self._hour:
            self._hour = hour
            self._told.clear()
        limit = plan.quota.requests
        usage = Usage(limit, limit - plan.remaining(ahead))
        for percent in THRESHOLDS:
            if usage.has_reached(percent) and (tenant_id, percent) not in self._told:
                self._told.add((tenant_id, percent))
                event = ApiCallQuotaThresholdReached(tenant_id=tenant_id, percent=percent, limit=limit, used=usage.used)
                self._waiting.append((event, _envelope(event, hour, now)))
                self._wanted.set()

    async def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            await self._wanted.wait()
            # Not idempotent as the relays' are: what is sent twice has one id, and the small broker knows no such.
            producer = AIOKafkaProducer(
                bootstrap_servers=self._settings.kafka_bootstrap_servers, acks="all", **client_security(self._settings)
            )
            try:
                await producer.start()
                backoff = _FIRST_BACKOFF_SECONDS
                await self._send(producer)
            except (KafkaError, OSError) as error:
                log.warning("notices_not_sent", error=repr(error), waiting=len(self._waiting), retry_in_seconds=backoff)
            finally:
                await producer.stop()
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, _LONGEST_BACKOFF_SECONDS)

    async def _send(self, producer: AIOKafkaProducer) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                while self._waiting:
                    record = encode(*self._waiting[0])
                    await producer.send_and_wait(record.topic, record.value, key=record.key, headers=record.headers)
                    self._waiting.popleft()
            finally:
                if self._waiting:
                    self._wanted.set()


def _envelope(event: ApiCallQuotaThresholdReached, hour: int, now: datetime) -> Envelope:
    """Return the envelope of a notice, which is the same wherever it is made within the hour, but for the moment."""
    return Envelope(
        id=uuid5(NAMESPACE_URL, f"{_SOURCE}/{event.tenant_id}/{event.percent}/{hour}"),
        source=_SOURCE,
        type=event.TYPE,
        time=now,
        subject=event.key,
        partitionkey=event.key,
        tenantid=event.tenant_id,
        aggregateversion=len(THRESHOLDS) * hour + THRESHOLDS.index(event.percent),
        actorkind="system",
    )
