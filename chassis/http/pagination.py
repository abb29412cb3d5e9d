"""Cursor pagination: a page starts after the last row of the page before, whatever was added meanwhile."""

import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Generic, TypeVar

import orjson
from fastapi import Query
from pydantic import BaseModel, Field

from chassis.http.problem import Problem

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=200, description="How many items at most.")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next_cursor` of the page before.")]


class Page(BaseModel, Generic[T]):
    """A page of a list, in the order of ids."""

    items: list[T]
    next_cursor: str | None = Field(description="Pass as `cursor` for the next page; null on the last one.")


def encode_cursor(values: Sequence[Any]) -> str:
    """Return the opaque cursor that stands after a row with these sort values."""
    return base64.urlsafe_b64encode(orjson.dumps([str(value) for value in values])).decode().rstrip("=")


def decode_cursor(cursor: str | None, *types: Callable[[str], Any]) -> tuple[Any, ...] | None:
    """Return the sort values of a cursor as these types, None for no cursor; Problem 400 if it isn't ours."""
    if cursor is None:
        return None
    try:
        values = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(values, list):
            raise ValueError("not a list")
        return tuple(kind(value) for kind, value in zip(types, values, strict=True))
    except (ValueError, TypeError, AttributeError, binascii.Error, orjson.JSONDecodeError) as error:
        raise Problem(400, "invalid-cursor", "The cursor is not one that a page of this list gave.") from error


def paginate(rows: Sequence[T], limit: int, cursor_of: Callable[[T], Sequence[Any]]) -> tuple[list[T], str | None]:
    """Split `limit + 1` fetched rows into a page and the cursor of the next one."""
    page = list(rows[:limit])
    return page, encode_cursor(cursor_of(page[-1])) if len(rows) > limit else None
