"""How busy each part of a process is: the seconds in which it had at least one piece of work under way.

Durations of pieces that overlap add up to more than the time that passed; these don't, so that they show where time
went, and by their rate how near a part is to its limit.
"""

import time
from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector


class Part:
    """A kind of work. Each piece of it begins and ends, or is done in a `with`. For one thread, the event loop's."""

    def __init__(self) -> None:
        self._under_way = 0
        self._since = 0.0
        self._ended = 0.0

    def begin(self) -> None:
        """Note that a piece of work begins."""
        if not self._under_way:
            self._since = time.perf_counter()
        self._under_way += 1

    def end(self) -> None:
        """Note that one has ended."""
        self._under_way -= 1
        if not self._under_way:
            self._ended += time.perf_counter() - self._since

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def seconds(self) -> float:
        """The seconds so far, those of the work under way included."""
        return self._ended + (time.perf_counter() - self._since if self._under_way else 0.0)


HTTP, WORKER, RELAY, CONSUMER = Part(), Part(), Part(), Part()
_PARTS = {"http": HTTP, "worker": WORKER, "relay": RELAY, "consumer": CONSUMER}


class _Parts(Collector):
    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "dotmac_busy_seconds", "Seconds in which a part of the process had work under way.", labels=["part"]
        )
        for name, part in _PARTS.items():
            family.add_metric([name], part.seconds)
        yield family


REGISTRY.register(_Parts())
