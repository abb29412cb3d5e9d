"""Deadlines that travel with a request: whoever works on it knows how long anybody will wait for the answer."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chassis.http.problem import Problem

DEADLINE = b"x-envoy-expected-rq-timeout-ms"
"""Milliseconds that are left. The one such header that is written down somewhere and has users: Envoy sets it, so a
service keeps its deadlines behind a mesh as well. Time left, not a time of day: clocks differ."""


def seconds_left(value: bytes | None) -> float | None:
    """Return what the header says, or None if it says nothing that can be understood."""
    return int(value) / 1000 if value is not None and value.isdigit() and len(value) <= 9 else None


class Deadlines:
    """ASGI middleware that stops the work on a request when its time is over, and answers 504.

    The work is cancelled where it waits, so a transaction is rolled back. An answer that has begun may take its time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        seconds = None
        if scope["type"] == "http":
            seconds = seconds_left(next((value for name, value in scope["headers"] if name == DEADLINE), None))
        if seconds is None:
            await self._app(scope, receive, send)
            return

        async def begun(message: Message) -> None:
            if message["type"] == "http.response.start" and not limit.expired():
                limit.reschedule(None)
            await send(message)

        try:
            async with asyncio.timeout(seconds) as limit:
                await self._app(scope, receive, begun)
        except TimeoutError:
            if not limit.expired():
                raise
            problem = Problem(504, "deadline-exceeded", "The time that was left for this request is over.")
            await problem.response()(scope, receive, send)
