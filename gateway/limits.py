"""Rate limits: GCRA, the generic cell rate algorithm, counted in this process or, by several together, in Redis.

A key is one number, the time at which its quota is whole again. A request moves it on by its share of the window and
is refused where that would reach further ahead than the window is long: a whole quota may come at once, it refills
evenly, and what is left and when to come back are exact. A request meets several limits at once and is counted by all
of them or, refused, by none.
"""

import asyncio
import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.breaker import CircuitBreaker

log = structlog.get_logger()

_SECONDS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}
_QUOTA = re.compile(r"\s*(\d+)\s*/\s*(second|minute|hour|day)\s*")
_MOST_KEYS = 100_000
_MOST_AT_ONCE = 100
_REDIS_SECONDS = 0.25


class Quota(NamedTuple):
    """So many requests in so many seconds."""

    requests: int
    seconds: float

    @classmethod
    def parse(cls, value: Any) -> "Quota":
        """Read `100/second`; ValueError says what is wrong."""
        if isinstance(value, Quota):
            return value
        match = _QUOTA.fullmatch(str(value))
        if match is None or int(match[1]) == 0:
            raise ValueError("a quota is written as 100/second, 6000/minute, 100000/hour or 1000000/day")
        return cls(int(match[1]), _SECONDS[match[2]])


class Policy:
    """A named quota, which holds for each key by itself."""

    __slots__ = ("most", "name", "quota", "share", "window")

    def __init__(self, name: str, quota: Quota) -> None:
        self.name = name
        self.quota = quota
        self.window = quota.seconds
        self.share = quota.seconds / quota.requests
        """By how many seconds of its window a request moves a key on."""
        self.most = self.window + 1e-6
        """How many seconds ahead of now a request may move its key."""

    def refuses(self, ahead: float) -> bool:
        """Whether a request may not move its key to `ahead` seconds from now."""
        return ahead > self.most

    def remaining(self, ahead: float) -> int:
        """Return how many requests are left of the quota."""
        return max(0, int((self.window - ahead) / self.share + 1e-3))


class Limiter(Protocol):
    """Counts requests."""

    async def take(self, policies: Sequence[Policy], keys: Sequence[str]) -> list[float]:
        """Count a request by all policies, each with its key, or by none if one refuses it.

        Gives for each policy in how many seconds the quota is whole again, this request included; see `refuses`.
        """
        ...

    async def close(self) -> None:
        """Let go of what is held."""
        ...


class LocalLimiter:
    """Counts in this process."""

    def __init__(self) -> None:
        self._counters: defaultdict[str, _Counters] = defaultdict(_Counters)

    def take_now(self, policies: Sequence[Policy], keys: Sequence[str]) -> list[float]:
        """Do as `take` does, without waiting."""
        now = time.monotonic()
        aheads = []
        passes = True
        for policy, key in zip(policies, keys, strict=True):
            counters = self._counters[policy.name]
            if now >= counters.turns_at or len(counters.young) >= _MOST_KEYS:
                counters.turn(now + policy.window)
            whole = counters.young.get(key) or counters.old.get(key, 0.0)
            ahead = policy.share if whole < now else whole - now + policy.share
            if ahead > policy.most:
                passes = False
            aheads.append(ahead)
        if passes:
            for policy, key, ahead in zip(policies, keys, aheads, strict=True):
                self._counters[policy.name].young[key] = now + ahead
        return aheads

    async def take(self, policies: Sequence[Policy], keys: Sequence[str]) -> list[float]:
        return self.take_now(policies, keys)

    async def close(self) -> None:
        return None


class _Counters:
    """When the quota of each key is whole again, in two generations.

    A key that no request moved for a whole window has a whole quota, and is forgotten. A generation that grows too
    large ends early: a flood of addresses must not fill the memory.
    """

    __slots__ = ("old", "turns_at", "young")

    def __init__(self) -> None:
        self.young: dict[str, float] = {}
        self.old: dict[str, float] = {}
        self.turns_at = float("-inf")

    def turn(self, turns_at: float) -> None:
        """Begin another generation, which ends at `turns_at`."""
        self.old, self.young, self.turns_at = self.young, {}, turns_at


# Many requests at once: ARGV holds for each how many policies it has, and for each policy its share and its window in
# microseconds; KEYS has a key for each policy. Gives how far each is ahead.
_SCRIPT = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local answers, argument, key = {}, 1, 1
while argument <= #ARGV do
  local policies, passes = tonumber(ARGV[argument]), true
  for policy = 1, policies do
    local share, window = tonumber(ARGV[argument + policy * 2 - 1]), tonumber(ARGV[argument + policy * 2])
    local whole = tonumber(redis.call('GET', KEYS[key + policy - 1]) or 0)
    local ahead = math.max(whole - now, 0) + share
    passes = passes and ahead <= window
    answers[key + policy - 1] = ahead
  end
  for at = key, key + policies - 1 do
    if passes then
      redis.call('SET', KEYS[at], string.format('%.0f', now + answers[at]), 'PX', math.ceil(answers[at] / 1000))
    end
  end
  argument, key = argument + policies * 2 + 1, key + policies
end
return answers
"""

_Request = tuple[Sequence[Policy], Sequence[str]]


class SharedLimiter:
    """Counts in Redis, for all gateways together; alone while Redis does not answer.

    One connection, one call at a time: requests that come during a call go together in the next. Not for Redis Cluster,
    whose scripts see the keys of one slot only.
    """

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(
            url,
            socket_timeout=_REDIS_SECONDS,
            socket_connect_timeout=_REDIS_SECONDS,
            retry=Retry(NoBackoff(), 1),  # for a connection that was closed while idle; after that we count alone
        )
        self._script = self._redis.register_script(_SCRIPT)
        self._alone = LocalLimiter()
        self._breaker = CircuitBreaker(failures=1, seconds=1.0)
        self._waiting: list[tuple[_Request, asyncio.Future[list[float]]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def take(self, policies: Sequence[Policy], keys: Sequence[str]) -> list[float]:
        answer: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        self._waiting.append(((policies, keys), answer))
        if self._sender is None:
            self._sender = asyncio.create_task(self._send(), name="rate limits")
        return await answer

    async def close(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sender
        await self._redis.aclose()

    async def _send(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST_AT_ONCE], self._waiting[_MOST_AT_ONCE:]
                aheads = await self._counted([request for request, _ in batch])
                for (_, answer), ahead in zip(batch, aheads, strict=True):
                    if not answer.done():  # whoever asked may be gone
                        answer.set_result(ahead)
        finally:
            self._sender = None

    async def _counted(self, requests: Sequence[_Request]) -> list[list[float]]:
        if self._breaker.wait(time.monotonic()) == 0:
            names: list[str] = []
            arguments: list[int] = []
            for policies, keys in requests:
                arguments.append(len(policies))
                for policy, key in zip(policies, keys, strict=True):
                    names.append(f"dotmac:rate:{policy.name}:{key}")
                    arguments += [round(policy.share * 1e6), round(policy.window * 1e6)]
            try:
                aheads = iter(await self._script(keys=names, args=arguments))
            except (RedisError, OSError, TimeoutError) as error:
                self._breaker.failed(time.monotonic())
                log.warning("rate_limits_not_shared", reason=str(error) or type(error).__name__)
            else:
                self._breaker.succeeded()
                return [[next(aheads) / 1e6 for _ in policies] for policies, _ in requests]
        return [self._alone.take_now(policies, keys) for policies, keys in requests]
