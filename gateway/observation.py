"""What is told of the requests that were passed on: a metric and a line in the log for each.

A request leaves a few values behind and goes; several times a second what was left is told in one go. That takes half
of the time that telling each by itself would, and none of a request's own.
"""

import logging
import re
import sys
from bisect import bisect_left
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import accumulate
from typing import NamedTuple

import orjson
import structlog
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from chassis.http.observation import SECONDS, known_method
from chassis.security.principals import Principal
from chassis.telemetry.logs import clean

_MOST_KEPT = 1000
# Too short for a token, and without what a password could be told by.
_PLAIN = re.compile(r"[A-Za-z0-9/_.-]{1,120}")


class Seen(NamedTuple):
    """A request that is done."""

    ended: float
    """Seconds since the epoch."""
    seconds: float
    method: str
    path: bytes
    status: int
    service: str
    address: str
    request_id: bytes
    traceparent: str
    principal: Principal | None


class Durations(Collector):
    """The histogram of how long requests took, counted in plain lists: no lock, for all is one thread's."""

    def __init__(self) -> None:
        # Per service, method and status: how many in each bucket but the ones before, and the sum of all.
        self._counts: dict[tuple[str, str, int], list[int]] = {}
        self._sums: dict[tuple[str, str, int], float] = {}

    def observe(self, seen: Seen) -> None:
        """Count a request."""
        key = (seen.service, known_method(seen.method), seen.status)
        counts = self._counts.get(key)
        if counts is None:
            counts = self._counts[key] = [0] * (len(SECONDS) + 1)
            self._sums[key] = 0.0
        counts[bisect_left(SECONDS, seen.seconds)] += 1
        self._sums[key] += seen.seconds

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily(
            "dotmac_gateway_request_duration_seconds",
            "Time to answer a request, by the service it went to.",
            labels=["service", "method", "status"],
        )
        bounds = [*(str(float(bound)) for bound in SECONDS), "+Inf"]
        for (service, method, status), counts in self._counts.items():
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            total = self._sums[service, method, status]
            family.add_metric([service, method, str(status)], buckets, total)
        yield family


DURATIONS = Durations()
REGISTRY.register(DURATIONS)


class Observation:
    """Keeps what is done until it is told."""

    def __init__(self) -> None:
        self._logs = structlog.get_logger().is_enabled_for(logging.INFO)
        self._kept: list[Seen] = []

    def keep(self, seen: Seen) -> None:
        """Tell of it soon."""
        self._kept.append(seen)
        if len(self._kept) >= _MOST_KEPT:
            self.tell()

    def tell(self) -> None:
        """Tell of all that is done."""
        kept, self._kept = self._kept, []
        for seen in kept:
            DURATIONS.observe(seen)
        if kept and self._logs:
            sys.stdout.buffer.write(b"".join([_line(seen) for seen in kept]))
        sys.stdout.flush()


def _line(seen: Seen) -> bytes:
    """Return what structlog would write, without its machinery."""
    ended, seconds, method, path, status, service, address, request_id, traceparent, principal = seen
    line: dict[str, object] = {
        "event": "request",
        "level": "info",
        "service": "gateway",
        "timestamp": datetime.fromtimestamp(ended, UTC),
        "method": method,
        "path": _plain("path", path),
        "status": status,
        "milliseconds": round(seconds * 1000, 2),
        "upstream": service,
        "address": address,
        "request_id": _plain("request_id", request_id),
        "trace_id": traceparent[3:35],
        "span_id": traceparent[36:52],
    }
    if principal is not None:
        line["tenant_id"], line["subject"] = principal.tenant_id, principal.subject
    return orjson.dumps(line, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


def _plain(name: str, value: bytes) -> str:
    text = value.decode("latin-1")
    return text if _PLAIN.fullmatch(text) else str(clean(None, "", {name: text})[name])
