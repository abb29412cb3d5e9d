"""`Idempotency-Key`: a POST that is sent again gets the first answer and changes nothing."""

import hashlib
import re
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from chassis.http.problem import Problem
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.service import Service

KEY = "^[!-~]{1,255}$"
"""What an Idempotency-Key may be."""
_KEY = re.compile(KEY)


async def idempotent(
    request: Request,
    service: Service,
    principal: Principal,
    handler: Callable[[Transaction], Awaitable[Response]],
    *,
    body_digest: bytes | None = None,
) -> Response:
    """Run `handler` in the principal's tenant, or answer as it did before for the same key and request.

    The key and the answer commit together with the effect, so that a crash leaves either all or nothing.
    Two requests with one key at the same time take turns on the key's row. A key is remembered for a day.

    body_digest: SHA-256 of a body that was streamed and is gone.
    """
    key = request.headers.get("idempotency-key")
    async with service.db.for_tenant(principal.tenant_id) as tx:
        if key is None:
            return await handler(tx)
        if not _KEY.fullmatch(key):
            detail = "An Idempotency-Key has 1 to 255 characters of ASCII that can be printed, and no spaces."
            raise Problem(400, "invalid-idempotency-key", detail)
        address = (principal.tenant_id, principal.subject, key)
        body = body_digest or hashlib.sha256(await request.body()).digest()
        digest = hashlib.sha256(b"\0".join([request.method.encode(), request.url.path.encode(), body])).digest()
        reserved = await tx.fetchval(
            "insert into idempotency_key (tenant_id, principal, key, request_hash) values ($1, $2, $3, $4)"
            " on conflict do nothing returning true",
            *address,
            digest,
        )
        if not reserved:
            return await _replay(tx, service, address, digest)
        response = await handler(tx)
        kept = {name: value for name, value in response.headers.items() if name != "content-length"}
        await tx.execute(
            "update idempotency_key set status = $4, headers = $5, body = $6"
            " where tenant_id = $1 and principal = $2 and key = $3",
            *address,
            response.status_code,
            kept,
            service.vault.seal(bytes(response.body)),  # an answer may hold a secret, such as an invitation
        )
        return response


async def _replay(tx: Transaction, service: Service, address: tuple[object, ...], digest: bytes) -> Response:
    row = await tx.fetchrow(
        "select request_hash, status, headers, body from idempotency_key"
        " where tenant_id = $1 and principal = $2 and key = $3",
        *address,
    )
    if row is None or row["status"] is None:
        raise Problem(409, "idempotency-key-in-use", "The first request with this key is still under way.")
    if row["request_hash"] != digest:
        raise Problem(422, "idempotency-key-reused", "This Idempotency-Key was used for a different request.")
    return Response(service.vault.open(row["body"]), row["status"], {**row["headers"], "Idempotency-Replayed": "true"})
