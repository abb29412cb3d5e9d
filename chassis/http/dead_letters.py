"""A service's dead letters by REST, for those who run the platform. Who did what with one is kept with it."""

import base64
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.fields import PLAIN
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.problem import NotFound, Problem
from chassis.http.responses import json
from chassis.messaging import dead_letter
from chassis.messaging.dead_letter import DeadLetter
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service

_WRITE = "dead-letters:write"
Reader = Annotated[Principal, Depends(require("dead-letters:read"))]
Writer = Annotated[Principal, Depends(require(_WRITE))]
LetterId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class DeadLetterView(BaseModel):
    """An event that a consumer could not handle, or one that waits behind it."""

    id: int
    consumer: str = Field(description="The consumer group that could not handle it.")
    topic: str
    partition: int
    offset: int
    key: str | None = Field(description="The aggregate's id. Bytes that are no text are shown as U+FFFD.")
    event_type: str | None
    parked: bool = Field(description="Whether it only waits behind a dead letter of its key.")
    reason: str
    attempts: int = Field(description="How often it was handled in vain.")
    created_at: datetime
    resolution: Literal["replayed", "discarded"] | None = Field(description="Null while it is open.")

    @classmethod
    def of(cls, letter: DeadLetter) -> "DeadLetterView":
        return cls(**_fields(letter))


class Action(BaseModel):
    """What somebody did with a dead letter."""

    action: dead_letter.ActionName
    principal: str = Field(description="The user's id; for the command line, the name of its user.")
    at: datetime


class DeadLetterDetail(DeadLetterView):
    """A dead letter with its record, and with what was done about it."""

    headers: dict[str, str] = Field(description="The record's headers. Bytes that are no text are shown as U+FFFD.")
    value: str | None = Field(
        description="The record's value, in base64. It may tell of an ISP's customer or bill, and so is shown to those"
        " alone who judge whether to replay it (`dead-letters:write`): null for others, and where it has none."
    )
    actions: list[Action] = Field(description="The oldest first.")


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _fields(letter: DeadLetter) -> dict[str, Any]:
    headers = dict(letter.headers)
    return {
        **{name: getattr(letter, name) for name in DeadLetterView.model_fields.keys() - {"key", "event_type"}},
        "key": None if letter.key is None else _text(letter.key),
        "event_type": _text(headers["ce_type"]) if "ce_type" in headers else None,
    }


async def _detail(tx: Transaction, who: Principal, letter_id: int) -> Response:
    letter = await dead_letter.show(tx, letter_id)
    if letter is None:
        raise NotFound("dead letter", letter_id)
    value = letter.value if _WRITE in who.scopes else None
    return json(
        DeadLetterDetail(
            **_fields(letter),
            headers={name: _text(value) for name, value in letter.headers},
            value=None if value is None else base64.b64encode(value).decode(),
            actions=[Action(**row) for row in await dead_letter.actions(tx, letter_id)],
        )
    )


def router(service_name: str) -> APIRouter:
    """Return the routes of a service's dead letters: `/api/v1/<service>-dead-letters`."""
    routes = APIRouter(prefix=f"/api/v1/{service_name}-dead-letters", tags=["Dead letters"])

    @routes.get("", name=f"list_{service_name}_dead_letters", response_model=Page[DeadLetterView])
    async def list_dead_letters(
        service: CurrentService,
        who: Reader,
        limit: Limit = 50,
        cursor: Cursor = None,
        consumer: Annotated[str | None, Query(max_length=100, pattern=PLAIN)] = None,
    ) -> Response:
        """List the open ones, the oldest first."""
        after = decode_cursor(cursor, int)
        async with service.db.for_tenant(who.tenant_id) as tx:
            letters = await dead_letter.list_open(tx, consumer, limit + 1, after[0] if after else 0)
        page, next_cursor = paginate(letters, limit, lambda letter: [letter.id])
        return json(Page[DeadLetterView](items=[DeadLetterView.of(item) for item in page], next_cursor=next_cursor))

    @routes.get("/{letter_id}", name=f"get_{service_name}_dead_letter", response_model=DeadLetterDetail)
    async def get_dead_letter(service: CurrentService, who: Reader, letter_id: LetterId) -> Response:
        """Read one with its record and with what was done about it."""
        async with service.db.for_tenant(who.tenant_id) as tx:
            return await _detail(tx, who, letter_id)

    @routes.post("/{letter_id}/replay", name=f"replay_{service_name}_dead_letter", response_model=DeadLetterDetail)
    async def replay_dead_letter(service: CurrentService, who: Writer, letter_id: LetterId) -> Response:
        """Ask for it to be handled again with all that waits behind it, in order; it stays open until that is done."""
        return await _act(service, who, letter_id, "replay")

    @routes.post("/{letter_id}/discard", name=f"discard_{service_name}_dead_letter", response_model=DeadLetterDetail)
    async def discard_dead_letter(service: CurrentService, who: Writer, letter_id: LetterId) -> Response:
        """Give it up for good; what waits behind it is handled."""
        return await _act(service, who, letter_id, "discard")

    return routes


async def _act(service: Service, who: Principal, letter_id: int, action: dead_letter.ActionName) -> Response:
    async with service.db.for_tenant(who.tenant_id) as tx:
        if not await dead_letter.act(tx, letter_id, action, who.subject):
            letter = await dead_letter.show(tx, letter_id)
            if letter is None:
                raise NotFound("dead letter", letter_id)
            raise Problem(409, "wrong-state", f"It was {letter.resolution} already.")
        return await _detail(tx, who, letter_id)
