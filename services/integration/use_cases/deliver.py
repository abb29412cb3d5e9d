"""Deliver what waits to its endpoints: to many at once, to each in order and one event at a time.

Who delivers to an endpoint holds a lease on its queue, for a while: when a process dies, another goes on once that is
over. An event whose outcome was not kept is delivered again, with the same id.
"""

import asyncio
import random
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import structlog

from chassis.ids import new_id
from chassis.service import Service
from chassis.worker import Worker
from services.integration import metrics
from services.integration.domain.retries import Patience
from services.integration.sender import Outcome, Sender
from services.integration.settings import WebhookSettings
from services.integration.use_cases.change_endpoint import disable_endpoint
from services.integration.use_cases.record_events import DISPATCHER

log = structlog.get_logger()

_RUN = 50
"""Events that are loaded and delivered under one lease."""


@dataclass(frozen=True, slots=True)
class _Lease:
    """The right to deliver to an endpoint, with what waits there."""

    tenant_id: UUID
    endpoint_id: UUID
    id: UUID
    endpoint: Any
    secrets: list[str]
    waiting: list[Any]


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What follows from an attempt that failed."""

    retry_at: datetime
    disable: str | None = None
    """Why the endpoint is sent nothing more."""


class Dispatcher(Worker):
    """Takes up endpoints for which something is due, each in a task of its own."""

    def __init__(self, service: Service, settings: WebhookSettings) -> None:
        super().__init__(DISPATCHER, self._take_up, poll_seconds=0.5)
        self._service = service
        self._settings = settings
        self._patience = Patience(
            timedelta(seconds=settings.first_retry_seconds),
            timedelta(hours=settings.longest_retry_hours),
            timedelta(hours=settings.give_up_hours),
            timedelta(hours=settings.disable_hours),
        )
        self._lease_time = timedelta(seconds=2 * settings.timeout_seconds)
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._sender: Sender

    def start(self) -> None:
        """Begin."""
        self._sender = Sender(
            timeout_seconds=self._settings.timeout_seconds, allow_loopback=self._settings.allow_loopback
        )
        super().start()

    async def stop(self) -> None:
        """Break off what is being delivered, and leave it to whoever comes next."""
        await super().stop()
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        await self._sender.close()

    async def _take_up(self) -> bool:
        now = self._service.clock.now()
        async with self._service.consumer_db.unscoped() as tx:
            due = await tx.fetch(
                "select tenant_id, endpoint_id from webhook_queue"
                " where due_at <= $1 and coalesce(leased_until <= $1, true) and endpoint_id <> all($2::uuid[])"
                " order by due_at limit $3",
                now,
                list(self._running),
                self._settings.concurrency - len(self._running),
            )
        for row in due:
            endpoint_id = row["endpoint_id"]
            task = asyncio.create_task(self._run_for(row["tenant_id"], endpoint_id), name=f"webhook-{endpoint_id}")
            self._running[endpoint_id] = task
        return False

    async def _run_for(self, tenant_id: UUID, endpoint_id: UUID) -> None:
        try:
            lease = await self._leased(tenant_id, endpoint_id)
            if lease is not None:
                await self._deliver(lease)
        except Exception as error:  # the lease ends by itself, and then it is tried again
            log.exception("webhook_run_failed", endpoint_id=str(endpoint_id), error=repr(error))
        finally:
            del self._running[endpoint_id]
            self.wake()

    async def _leased(self, tenant_id: UUID, endpoint_id: UUID) -> _Lease | None:
        now, lease, identity = self._service.clock.now(), new_id(), (tenant_id, endpoint_id)
        async with self._service.consumer_db.for_tenants([tenant_id]) as tx:
            taken = await tx.fetchval(
                "update webhook_queue set lease = $3, leased_until = $4 where (tenant_id, endpoint_id) = ($1, $2)"
                " and due_at <= $5 and coalesce(leased_until <= $5, true) returning true",
                *identity,
                lease,
                now + self._lease_time,
                now,
            )
            endpoint = await tx.fetchrow(
                "select * from webhook_endpoint where (tenant_id, endpoint_id) = ($1, $2)", *identity
            )
            if not taken or endpoint is None:
                return None
            waiting = await tx.fetch(
                "select d.delivery_id, d.event_id, d.attempts, d.first_attempt_at, e.document"
                " from webhook_delivery d join feed_event e using (tenant_id, position)"
                " where d.tenant_id = $1 and d.endpoint_id = $2 and d.status = 'pending' order by d.sequence limit $3",
                *identity,
                _RUN,
            )
        sealed = [endpoint["secret"]]
        if endpoint["previous_until"] and endpoint["previous_until"] > now:
            sealed.append(endpoint["previous_secret"])
        secrets = [self._service.vault.open(secret).decode() for secret in sealed]
        return _Lease(tenant_id, endpoint_id, lease, endpoint, secrets, waiting)

    async def _deliver(self, lease: _Lease) -> None:
        """Deliver one after the other until one fails, the run is over, or the lease is."""
        ends_at = self._service.clock.now() + self._lease_time
        succeeded, verdict = False, None
        try:
            for delivery in lease.waiting:
                if ends_at - self._service.clock.now() < timedelta(seconds=self._settings.timeout_seconds):
                    break
                outcome = await self._sender.send(
                    lease.endpoint["url"], lease.secrets, str(delivery["event_id"]), delivery["document"]
                )
                verdict = await self._keep(lease, delivery, outcome)
                if verdict is not None:
                    break
                succeeded = True
        finally:
            await self._release(lease, succeeded=succeeded, verdict=verdict)

    async def _keep(self, lease: _Lease, delivery: Any, outcome: Outcome) -> _Verdict | None:
        """Keep what became of an attempt; return what follows if it failed."""
        now = self._service.clock.now()
        first = delivery["first_attempt_at"] or now
        given_up = not outcome.delivered and self._patience.gives_up(first, now)
        status = "succeeded" if outcome.delivered else "failed" if given_up else "pending"
        identity = (lease.tenant_id, delivery["delivery_id"])
        async with self._service.consumer_db.for_tenants([lease.tenant_id]) as tx:
            # The number is counted where it is kept: after a lease that ended too early two may have tried.
            number = await tx.fetchval(
                "update webhook_delivery set attempts = attempts + 1, status = $3, first_attempt_at = $4,"
                " finished_at = $5 where tenant_id = $1 and delivery_id = $2 and status = 'pending' returning attempts",
                *identity,
                status,
                first,
                None if status == "pending" else now,
            )
            if number is None:
                return _Verdict(now)  # the endpoint was deleted or disabled meanwhile: no more is sent to it
            await tx.execute(
                "insert into webhook_attempt"
                " (tenant_id, delivery_id, number, started_at, milliseconds, status, error, response)"
                " values ($1, $2, $3, $4, $5, $6, $7, $8)",
                *identity,
                number,
                now - timedelta(milliseconds=outcome.milliseconds),
                outcome.milliseconds,
                outcome.status,
                outcome.error,
                outcome.response,
            )
        metrics.ATTEMPTS.labels("succeeded" if outcome.delivered else "failed").inc()
        metrics.ATTEMPT_SECONDS.observe(outcome.milliseconds / 1000)
        if outcome.delivered:
            return None
        wait = self._patience.wait(number, random.random(), outcome.retry_after)
        # What is behind one that is given up need not wait.
        return _Verdict(now if given_up else now + wait, "it answered 410: it is gone" if outcome.gone else None)

    async def _release(self, lease: _Lease, *, succeeded: bool, verdict: _Verdict | None) -> None:
        """Say when the endpoint is due again, and give up the lease."""
        now, identity = self._service.clock.now(), (lease.tenant_id, lease.endpoint_id)
        async with self._service.consumer_db.for_tenants([lease.tenant_id]) as tx:
            endpoint = await tx.fetchrow(
                "select * from webhook_endpoint where tenant_id = $1 and endpoint_id = $2 and enabled for update",
                *identity,
            )
            queue = await tx.fetchrow(
                "select failing_since from webhook_queue where tenant_id = $1 and endpoint_id = $2 and lease = $3"
                " for update",
                *identity,
                lease.id,
            )
            if endpoint is None or queue is None:
                return  # it was deleted or disabled, or the lease was over and another has it
            failing_since = None if succeeded else queue["failing_since"]
            if verdict is not None:
                failing_since = failing_since or now
                if reason := self._reason_to_disable(verdict, failing_since, now):
                    await disable_endpoint(tx, self._service, endpoint, reason, failing_since)
                    return
            await tx.execute(
                "update webhook_queue set lease = null, leased_until = null, failing_since = $3, due_at = case"
                " when exists (select from webhook_delivery where tenant_id = $1 and endpoint_id = $2"
                " and status = 'pending') then $4::timestamptz end where tenant_id = $1 and endpoint_id = $2",
                *identity,
                failing_since,
                verdict.retry_at if verdict else now,
            )

    def _reason_to_disable(self, verdict: _Verdict, failing_since: datetime, now: datetime) -> str | None:
        if verdict.disable:
            return verdict.disable
        if self._patience.disables(failing_since, now):
            return f"it has failed for {(now - failing_since).total_seconds() / 3600:.0f} hours"
        return None
