"""The second factor of one's own sign-in: codes of an authenticator app (TOTP), and recovery codes."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.fields import PLAIN
from chassis.http.idempotency import idempotent
from chassis.http.models import Strict
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from services.tenant.domain.totp import as_text, uri
from services.tenant.use_cases import second_factor
from services.tenant.use_cases.prove_password import PasswordProof

router = APIRouter(prefix="/api/v1/auth/second-factor", tags=["Second factor"])
Anybody = Annotated[Principal, Depends(require())]
Code = Annotated[str, Field(min_length=6, max_length=40, pattern=PLAIN)]
_NOT_KEPT = {"Cache-Control": "no-store"}


class SecondFactorStart(Strict):
    current_password: Annotated[str, Field(min_length=1, max_length=200)]


class SecondFactorProof(SecondFactorStart):
    """The password, and a code."""

    code: Code


class SecondFactorConfirmation(Strict):
    code: Code


class SecondFactorBegun(BaseModel):
    """What an authenticator app makes codes of; told this once."""

    secret: str = Field(description="In base32, to be typed in.")
    uri: str = Field(description="The same, to be shown as a QR code.")


class RecoveryCodes(BaseModel):
    """Each is good once, in place of a code of the app; told this once."""

    recovery_codes: list[str]


class SecondFactorState(BaseModel):
    """Whether a sign-in asks for a code."""

    enabled: bool
    recovery_codes_left: int


@router.get("", response_model=SecondFactorState)
async def get_second_factor(service: CurrentService, who: Anybody) -> Response:
    """Say whether one's own sign-in asks for a code."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        enabled, left = await second_factor.state(tx, who)
    return json(SecondFactorState(enabled=enabled, recovery_codes_left=left))


@router.post("", status_code=201, response_model=SecondFactorBegun)
async def begin_second_factor(
    request: Request, service: CurrentService, who: Anybody, body: SecondFactorStart
) -> Response:
    """Begin a second factor, by one's password; it holds once a code confirms that the app has it."""
    proof = PasswordProof(service, who)
    await proof.look(body.current_password)

    async def begin(tx: Transaction) -> Response:
        user = await proof.user(tx)
        secret = await second_factor.begin(tx, service, user)
        return json(SecondFactorBegun(secret=as_text(secret), uri=uri(secret, user["email"])), 201, _NOT_KEPT)

    response = await idempotent(request, service, who, begin)
    await proof.accepted()
    return response


@router.post("/confirm", response_model=RecoveryCodes)
async def confirm_second_factor(
    request: Request, service: CurrentService, who: Anybody, body: SecondFactorConfirmation
) -> Response:
    """Have the second factor hold from now on, by a code of the app. The recovery codes are told this once."""

    async def confirm(tx: Transaction) -> Response:
        codes = await second_factor.confirm(tx, service, who, body.code)
        return json(RecoveryCodes(recovery_codes=codes), headers=_NOT_KEPT)

    return await idempotent(request, service, who, confirm)


@router.post("/remove", status_code=204)
async def remove_second_factor(
    request: Request, service: CurrentService, who: Anybody, body: SecondFactorProof
) -> Response:
    """Take away one's own second factor, by the password and a code."""
    proof = PasswordProof(service, who)
    await proof.look(body.current_password)

    async def remove(tx: Transaction) -> Response:
        await second_factor.remove(tx, service, who, await proof.user(tx), body.code)
        return Response(status_code=204)

    response = await idempotent(request, service, who, remove)
    await proof.accepted()
    return response


@router.post("/recovery-codes", response_model=RecoveryCodes)
async def renew_recovery_codes(
    request: Request, service: CurrentService, who: Anybody, body: SecondFactorProof
) -> Response:
    """Get new recovery codes, by the password and a code of the app; those before are void."""
    proof = PasswordProof(service, who)
    await proof.look(body.current_password)

    async def renew(tx: Transaction) -> Response:
        codes = await second_factor.renew_recovery_codes(tx, service, await proof.user(tx), body.code)
        return json(RecoveryCodes(recovery_codes=codes), headers=_NOT_KEPT)

    response = await idempotent(request, service, who, renew)
    await proof.accepted()
    return response
