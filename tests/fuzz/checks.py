"""Checks of our own, beside those of Schemathesis. It loads this file by the path in schemathesis.toml."""

from uuid import uuid4

import orjson
import schemathesis

# Kinds of problem that say: this does not fit the schema. Others, such as a cursor or an invitation that nobody gave
# out, or a currency that is not the tenant's, depend on what is stored, which a schema can't say.
_MISFITS = {
    "invalid-request",
    "malformed-json",
    "malformed-body",
    "invalid-value",
    "invalid-customer",
    "invalid-tenant",
}


@schemathesis.hook
def before_call(_ctx, case, _kwargs) -> None:
    """Have what fits be asked for anew: with a key that came before it is answered as before, though what was made then
    may be gone."""
    positive = case.meta is not None and case.meta.generation.mode.is_positive
    if positive and case.headers and "Idempotency-Key" in case.headers:
        case.headers["Idempotency-Key"] = str(uuid4())


@schemathesis.check
def fitting_data_is_accepted(_ctx, response, case) -> None:
    """What fits the schema is never refused as if it did not."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code not in (400, 422):
        return
    kind = _kind(response)
    assert kind not in _MISFITS, f"data that fits the schema was refused as {kind}: {response.text}"


@schemathesis.check
def errors_are_problems(_ctx, response, _case) -> None:
    """Every error has the shape of RFC 9457 and tells nothing of the inside."""
    if response.status_code < 400:
        return
    body = orjson.loads(response.content)
    assert response.headers["content-type"] == ["application/problem+json"], response.headers
    assert body["status"] == response.status_code
    assert body["type"].startswith("/problems/")
    for inside in ("Traceback", "asyncpg", "psycopg", "sqlalchemy", ".py", "select ", "insert ", "pydantic"):
        assert inside not in response.text, f"the answer shows {inside!r}: {response.text}"


def _kind(response) -> str:
    try:
        kind: str = orjson.loads(response.content)["type"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "unknown"
    return kind.removeprefix("/problems/")
