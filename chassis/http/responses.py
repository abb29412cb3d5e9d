"""Answers in JSON."""

from collections.abc import Mapping
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.responses import Response


def json(content: BaseModel | Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response of a model or of plain values."""
    body = content.model_dump_json().encode() if isinstance(content, BaseModel) else orjson.dumps(content)
    return Response(body, status, dict(headers or {}), "application/json")
