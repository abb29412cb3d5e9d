"""Answers that go on for as long as their clients like: how many there are, of each tenant and in all."""

from collections import Counter
from uuid import UUID

from prometheus_client import Gauge

from chassis.http.problem import Problem

STREAMS = Gauge("dotmac_gateway_streams", "Answers that go on, such as feeds of events.")


class Streams:
    """Counts them, in this process."""

    def __init__(self, in_all: int, of_a_tenant: int) -> None:
        self._in_all = in_all
        self._of_a_tenant = of_a_tenant
        self._open: Counter[UUID] = Counter()

    def enter(self, tenant_id: UUID) -> None:
        """Count one in; Problem 429 if its tenant has too many, 503 if there are too many in all."""
        if self._open[tenant_id] >= self._of_a_tenant:
            raise Problem(
                429,
                "too-many-streams",
                f"The tenant has {self._of_a_tenant} streams open: close one first.",
                headers={"Retry-After": "10"},
            )
        if self._open.total() >= self._in_all:
            raise Problem(503, "overloaded", "Too many streams are open.", headers={"Retry-After": "10"})
        self._open[tenant_id] += 1
        STREAMS.inc()

    def leave(self, tenant_id: UUID) -> None:
        """Count one out."""
        self._open[tenant_id] -= 1
        if not self._open[tenant_id]:
            del self._open[tenant_id]
        STREAMS.dec()
