"""Sign-in, log-out, passwords, invitations, and the keys that tokens are verified with."""

import base64
from typing import Annotated, Literal
from urllib.parse import unquote_plus

from fastapi import APIRouter, Depends, Form, Request
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.document import problems
from chassis.http.fields import PLAIN, Text
from chassis.http.idempotency import idempotent
from chassis.http.models import Strict
from chassis.http.problem import Unprocessable
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from chassis.security.tokens import TokenIssuer
from services.tenant.use_cases.change_password import change_password, new_hash_for
from services.tenant.use_cases.invite import accept_invitation
from services.tenant.use_cases.open_session import Granted, Origin
from services.tenant.use_cases.prove_password import PasswordProof
from services.tenant.use_cases.refresh_session import refresh_session
from services.tenant.use_cases.reset_password import accept_reset, request_reset
from services.tenant.use_cases.revoke_tokens import log_out
from services.tenant.use_cases.sign_in import sign_in
from services.tenant.use_cases.sign_in_program import exchange_api_key, sign_in_service_account

router = APIRouter(prefix="/api/v1/auth", tags=["Authentication"])
keys = APIRouter(tags=["Authentication"])

Password = Annotated[str, Field(min_length=12, max_length=200)]
OneTimeToken = Annotated[str, Field(min_length=20, max_length=200)]
_API_KEY = "urn:dotmac:params:oauth:token-type:api-key"
_LONGEST_AGENT = 200


class Token(BaseModel):
    """An access token, and where there is a session the token that refreshes it (RFC 6749)."""

    access_token: str
    token_type: str = "Bearer"
    expires_in: int = Field(description="Seconds until the access token ends.")
    scope: str
    refresh_token: str | None = Field(default=None, description="Good once: the answer to it has the next one.")
    refresh_expires_in: int | None = Field(default=None, description="Seconds until it can't be used any more.")


class Acceptance(Strict):
    token: OneTimeToken
    password: Password


class PasswordChangeData(Strict):
    current_password: Annotated[str, Field(min_length=1, max_length=200)]
    new_password: Password


class ResetRequest(Strict):
    username: Text
    tenant: Text | None = Field(default=None, description="The tenant's slug; none for the platform.")


def _origin(request: Request) -> Origin:
    agent = request.headers.get("user-agent")
    printable = "".join(character for character in agent or "" if character.isprintable())[:_LONGEST_AGENT]
    return Origin(request.client.host if request.client else None, printable or None)


def _answer(granted: Granted) -> Response:
    body = Token(
        access_token=granted.access_token,
        expires_in=granted.expires_in,
        scope=" ".join(sorted(granted.scopes)),
        refresh_token=granted.refresh_token,
        refresh_expires_in=granted.refresh_expires_in,
    )
    return json(body, headers={"Cache-Control": "no-store"})


@router.post("/token", response_model=Token, responses=problems(401))
async def create_token(
    request: Request,
    service: CurrentService,
    grant_type: Annotated[
        Literal[
            "password",
            "refresh_token",
            "client_credentials",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        ],
        Form(),
    ] = "password",
    username: Annotated[Text | None, Form()] = None,
    password: Annotated[str | None, Form(min_length=1, max_length=200)] = None,
    tenant: Annotated[Text | None, Form(description="The tenant's slug; none for the platform.")] = None,
    refresh_token: Annotated[str | None, Form(min_length=1, max_length=200)] = None,
    code: Annotated[
        str | None, Form(max_length=40, description="Of the second factor, for those who have one; or a recovery code.")
    ] = None,
    client_id: Annotated[str | None, Form(max_length=200, description="A service account, or by HTTP Basic.")] = None,
    client_secret: Annotated[str | None, Form(max_length=200)] = None,
    subject_token: Annotated[str | None, Form(max_length=200, description="An API key.")] = None,
    subject_token_type: Annotated[str | None, Form(max_length=200, description=f"Of an API key: `{_API_KEY}`.")] = None,
    scope: Annotated[
        str | None, Form(max_length=2000, pattern=PLAIN, description="For a program: fewer than all, with spaces.")
    ] = None,
) -> Response:
    """Sign in with a name and a password, which opens a session, or go on with a session; or sign a program in.

    A refresh token is good once. One that comes a second time ends its session, for it was copied.
    """
    issuer = TokenIssuer(*service.settings.signing_secrets)
    match grant_type:
        case "password":
            if username is None or password is None:
                raise Unprocessable("incomplete-grant", "Send username and password.")
            return _answer(await sign_in(service, issuer, username, password, tenant, _origin(request), code))
        case "refresh_token":
            if refresh_token is None:
                raise Unprocessable("incomplete-grant", "Send refresh_token.")
            return _answer(await refresh_session(service, issuer, refresh_token, _origin(request)))
        case "client_credentials":
            client = _client(request.headers.get("authorization"), client_id, client_secret)
            return _answer(await sign_in_service_account(service, issuer, *client, scope))
        case "urn:ietf:params:oauth:grant-type:token-exchange":
            if subject_token is None or subject_token_type is None:
                raise Unprocessable("incomplete-grant", "Send subject_token and subject_token_type.")
            if subject_token_type != _API_KEY:
                raise Unprocessable("unsupported-token-type", f"What can be exchanged is a {_API_KEY}.")
            return _answer(await exchange_api_key(service, issuer, subject_token, scope))


def _client(authorization: str | None, client_id: str | None, client_secret: str | None) -> tuple[str, str]:
    """Return a client's id and secret by HTTP Basic, or else from the form (RFC 6749, 2.3.1)."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() == "basic":
        if client_secret is not None:
            raise Unprocessable("incomplete-grant", "Send the client's secret one way, not two.")
        try:
            name, _, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        except ValueError:
            raise Unprocessable("incomplete-grant", "HTTP Basic has the client's id and secret in base64.") from None
        return unquote_plus(name), unquote_plus(secret)
    if client_id is None or client_secret is None:
        raise Unprocessable("incomplete-grant", "Send client_id and client_secret, or both by HTTP Basic.")
    return client_id, client_secret


@router.post("/logout", status_code=204)
async def logout(request: Request, service: CurrentService, who: Annotated[Principal, Depends(require())]) -> Response:
    """Log out: the session of the access token that this is sent with ends, and the token with it."""

    async def end(tx: Transaction) -> Response:
        await log_out(tx, service, who)
        return Response(status_code=204)

    return await idempotent(request, service, who, end)


@router.post("/password", status_code=204)
async def change_own_password(
    request: Request, service: CurrentService, who: Annotated[Principal, Depends(require())], body: PasswordChangeData
) -> Response:
    """Change one's own password; the user's other sessions end."""
    proof = PasswordProof(service, who)
    await proof.look(body.current_password)
    password_hash = await new_hash_for(proof, body.new_password)

    async def change(tx: Transaction) -> Response:
        await change_password(tx, service, who, proof, password_hash)
        return Response(status_code=204)

    response = await idempotent(request, service, who, change)
    await proof.accepted()
    return response


@router.post("/password-resets", status_code=202, response_class=Response)
async def request_password_reset(service: CurrentService, body: ResetRequest) -> Response:
    """Ask for a reset of a password that is forgotten; the answer is the same whether there is such a user or not.

    Those who administer the user's tenant see it, and make the reset.
    """
    # After the answer, whose time tells as little as its text.
    return Response(status_code=202, background=BackgroundTask(request_reset, service, body.username, body.tenant))


@router.post("/password-resets/accept", status_code=204)
async def accept_password_reset(service: CurrentService, body: Acceptance) -> Response:
    """Choose another password by the token of a reset; all of the user's sessions end."""
    await accept_reset(service, body.token, body.password)
    return Response(status_code=204)


@router.post("/invitations/accept", status_code=204)
async def accept(service: CurrentService, body: Acceptance) -> Response:
    """Accept an invitation by choosing a password."""
    await accept_invitation(service, body.token, body.password)
    return Response(status_code=204)


@keys.get("/.well-known/jwks.json")
async def signing_keys(service: CurrentService) -> Response:
    """Give the public keys that access tokens are signed with (RFC 7517)."""
    issuer = TokenIssuer(*service.settings.signing_secrets)
    return json(issuer.jwks(), headers={"Cache-Control": "public, max-age=300"})
