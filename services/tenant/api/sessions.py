"""Sessions: who is signed in, from where, and the end of it."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.pagination import Cursor, Limit, Page, decode_cursor, paginate
from chassis.http.problem import Problem
from chassis.http.responses import json
from chassis.security.principals import Principal
from services.tenant.api.models import SessionView
from services.tenant.use_cases.authorize import is_own
from services.tenant.use_cases.end_sessions import end_session

router = APIRouter(prefix="/api/v1", tags=["Sessions"])
Anybody = Annotated[Principal, Depends(require())]


@router.get("/sessions", response_model=Page[SessionView])
async def list_sessions(
    service: CurrentService,
    who: Anybody,
    limit: Limit = 50,
    cursor: Cursor = None,
    user_id: Annotated[
        UUID | None, Query(description="Whose: one's own without it; another's, or any by a program, need users:read.")
    ] = None,
) -> Response:
    """List the sessions that have not ended, the oldest first."""
    whose = user_id or who.subject
    if not is_own(who, whose) and "users:read" not in who.scopes:
        raise Problem(403, "missing-scope", "The token lacks the scope users:read.")
    after = decode_cursor(cursor, UUID)
    async with service.db.for_tenant(who.tenant_id) as tx:
        rows = await tx.fetch(
            "select * from sign_in_session where tenant_id = $1 and user_id::text = $2 and idle_until > $3"
            " and expires_at > $3 and ($4::uuid is null or session_id > $4) order by session_id limit $5",
            who.tenant_id,
            str(whose),
            service.clock.now(),
            after[0] if after else None,
            limit + 1,
        )
    page, next_cursor = paginate(rows, limit, lambda row: [row["session_id"]])
    items = [_view(row, who) for row in page]
    return json(Page[SessionView](items=items, next_cursor=next_cursor))


def _view(row: Any, who: Principal) -> SessionView:
    return SessionView.of({**row, "current": str(row["session_id"]) == who.session_id})


@router.delete("/sessions/{session_id}", status_code=204, response_class=Response)
async def delete_session(service: CurrentService, who: Anybody, session_id: UUID) -> Response:
    """End a session of one's own or, with users:write, of any user of the tenant."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        await end_session(tx, service, who, session_id)
    return Response(status_code=204)
