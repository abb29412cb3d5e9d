"""Sign-in, log-out, invitations, and the keys that tokens are verified with."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.document import problems
from chassis.http.fields import Text
from chassis.http.idempotency import idempotent
from chassis.http.models import Strict
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.security.tokens import TokenIssuer
from services.tenant.use_cases.invite_administrator import accept_invitation
from services.tenant.use_cases.revoke_tokens import log_out
from services.tenant.use_cases.sign_in import LIFETIME, sign_in

router = APIRouter(prefix="/api/v1/auth", tags=["Authentication"])
keys = APIRouter(tags=["Authentication"])


class Token(BaseModel):
    """An access token (RFC 6749)."""

    access_token: str
    token_type: str = "Bearer"
    expires_in: int = Field(description="Seconds until it ends.")
    scope: str


class Acceptance(Strict):
    token: Annotated[str, Field(min_length=20, max_length=200)]
    password: Annotated[str, Field(min_length=12, max_length=200)]


@router.post("/token", response_model=Token, responses=problems(401))
async def create_token(
    service: CurrentService,
    username: Annotated[Text, Form()],
    password: Annotated[str, Form(min_length=1, max_length=200)],
    tenant: Annotated[Text | None, Form(description="The tenant's slug; none for the platform.")] = None,
) -> Response:
    """Sign in with a name and a password."""
    issuer = TokenIssuer(service.settings.jwt_secret_key.get_secret_value())
    token, scopes = await sign_in(service, issuer, username, password, tenant)
    body = Token(access_token=token, expires_in=int(LIFETIME.total_seconds()), scope=" ".join(sorted(scopes)))
    return json(body, headers={"Cache-Control": "no-store"})


@router.post("/logout", status_code=204)
async def logout(request: Request, service: CurrentService, who: Annotated[Principal, Depends(require())]) -> Response:
    """Log out: the access token that this is sent with is revoked."""

    async def end(tx: Transaction) -> Response:
        await log_out(tx, service, who)
        return Response(status_code=204)

    return await idempotent(request, service, who, end)


@router.post("/invitations/accept", status_code=204)
async def accept(service: CurrentService, body: Acceptance) -> Response:
    """Accept an invitation by choosing a password."""
    await accept_invitation(service, body.token, body.password)
    return Response(status_code=204)


@keys.get("/.well-known/jwks.json")
async def signing_keys(service: CurrentService) -> Response:
    """Give the public keys that access tokens are signed with (RFC 7517)."""
    issuer = TokenIssuer(service.settings.jwt_secret_key.get_secret_value())
    return json(issuer.jwks(), headers={"Cache-Control": "public, max-age=300"})
