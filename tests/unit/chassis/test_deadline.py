"""A service stops working on a request whose time is over."""

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from chassis.http.deadline import DEADLINE, Deadlines, seconds_left


def scope(left: bytes | None) -> Scope:
    headers = [(DEADLINE, left)] if left is not None else []
    return {"type": "http", "method": "GET", "path": "/", "headers": headers}


async def answers(app: "Work", left: bytes | None) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request"}

    await Deadlines(app)(scope(left), receive, send)
    return sent


class Work:
    """Takes its time before it answers, or between the head and the body."""

    def __init__(self, *, before: float = 0, between: float = 0, raises: Exception | None = None) -> None:
        self.before = before
        self.between = between
        self.raises = raises
        self.stopped = False

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(self.before)
        except asyncio.CancelledError:
            self.stopped = True
            raise
        if self.raises:
            raise self.raises
        await send({"type": "http.response.start", "status": 200})
        await asyncio.sleep(self.between)
        await send({"type": "http.response.body", "body": b"done"})


async def test_work_past_the_deadline_is_stopped_and_answered_504() -> None:
    work = Work(before=60)
    start, body = await answers(work, b"20")
    assert work.stopped
    assert start["status"] == 504
    assert b"/problems/deadline-exceeded" in body["body"]


async def test_an_answer_that_has_begun_takes_its_time() -> None:
    sent = await answers(Work(between=0.1), b"50")
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 200


@pytest.mark.parametrize("left", [None, b"soon", b"-5", b"1.5", b"9999999999"])
async def test_without_a_deadline_there_is_none(left: bytes | None) -> None:
    assert seconds_left(left) is None
    assert (await answers(Work(before=0.01), left))[0]["status"] == 200


async def test_a_timeout_of_the_work_itself_is_not_the_deadline() -> None:
    with pytest.raises(TimeoutError, match="its own"):
        await answers(Work(raises=TimeoutError("its own")), b"60000")
