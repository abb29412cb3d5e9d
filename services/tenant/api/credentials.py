"""What programs sign in with: users' API keys, and service accounts."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from chassis.http.dependencies import CurrentService, require
from chassis.http.idempotency import idempotent
from chassis.http.listing import list_page, one
from chassis.http.pagination import Cursor, Limit, Page
from chassis.http.preconditions import etag
from chassis.http.responses import json
from chassis.persistence.database import Transaction
from chassis.security.principals import Principal
from services.tenant.api.models import (
    ApiKeyData,
    ApiKeyView,
    ApiKeyWithKey,
    CredentialData,
    CredentialView,
    CredentialWithSecret,
    ServiceAccountChange,
    ServiceAccountData,
    ServiceAccountDetail,
    ServiceAccountView,
    ServiceAccountWithSecret,
)
from services.tenant.use_cases.change_api_key import create_api_key, revoke_api_key
from services.tenant.use_cases.change_service_account import (
    add_credential,
    change_service_account,
    create_service_account,
    delete_service_account,
    remove_credential,
)

router = APIRouter(prefix="/api/v1", tags=["API keys and service accounts"])
Reader = Annotated[Principal, Depends(require("credentials:read"))]
Writer = Annotated[Principal, Depends(require("credentials:write"))]
_ACCOUNT = "/service-accounts/{service_account_id}"
_NOT_KEPT = {"Cache-Control": "no-store"}


@router.post("/api-keys", status_code=201, response_model=ApiKeyWithKey)
async def make_api_key(request: Request, service: CurrentService, who: Writer, body: ApiKeyData) -> Response:
    """Make an API key with scopes of one's own; the key is told this once.

    It is exchanged for access tokens at /api/v1/auth/token. It never allows more than its user may do, and
    makes no other key.
    """

    async def create(tx: Transaction) -> Response:
        lifetime = timedelta(days=body.expires_in_days)
        row, key = await create_api_key(tx, service, who, body.name, body.scopes, lifetime)
        view = ApiKeyWithKey(key=key, **dict(ApiKeyView.of(row)))
        return json(view, 201, {"Location": f"/api/v1/api-keys/{view.id}", **_NOT_KEPT})

    return await idempotent(request, service, who, create)


@router.get("/api-keys", response_model=Page[ApiKeyView])
async def list_api_keys(
    service: CurrentService,
    who: Reader,
    limit: Limit = 50,
    cursor: Cursor = None,
    user_id: Annotated[UUID | None, Query(description="Only keys of this user.")] = None,
) -> Response:
    """List the API keys of the tenant's users."""
    return await list_page(service, who, "api_key", "api_key_id", ApiKeyView.of, limit, cursor, {"user_id": user_id})


@router.get("/api-keys/{api_key_id}", response_model=ApiKeyView)
async def get_api_key(service: CurrentService, who: Reader, api_key_id: UUID) -> Response:
    """Read what is known of an API key."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        return json(ApiKeyView.of(await one(tx, who, "api_key", "api_key_id", api_key_id, "API key")))


@router.delete("/api-keys/{api_key_id}", status_code=204, response_class=Response)
async def delete_api_key(service: CurrentService, who: Writer, api_key_id: UUID) -> Response:
    """Revoke an API key; the access tokens that were issued for it end."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        await revoke_api_key(tx, service, who, api_key_id)
    return Response(status_code=204)


@router.post("/service-accounts", status_code=201, response_model=ServiceAccountWithSecret)
async def make_service_account(
    request: Request, service: CurrentService, who: Writer, body: ServiceAccountData
) -> Response:
    """Make an account for a program, with scopes of one's own; its secret is told this once.

    The program signs in at /api/v1/auth/token with the account's id and the secret (OAuth 2.0 client credentials).
    """

    async def create(tx: Transaction) -> Response:
        row, credential_id, secret = await create_service_account(
            tx, service, who, body.name, body.description, body.scopes
        )
        account = dict(ServiceAccountView.of(row))
        view = ServiceAccountWithSecret(credential_id=credential_id, secret=secret, **account)
        return json(view, 201, {"Location": f"/api/v1/service-accounts/{view.id}", **_NOT_KEPT})

    return await idempotent(request, service, who, create)


@router.get("/service-accounts", response_model=Page[ServiceAccountView])
async def list_service_accounts(
    service: CurrentService, who: Reader, limit: Limit = 50, cursor: Cursor = None
) -> Response:
    """List the tenant's service accounts."""
    view = ServiceAccountView.of
    return await list_page(service, who, "service_account", "service_account_id", view, limit, cursor, {})


@router.get(_ACCOUNT, response_model=ServiceAccountDetail)
async def get_service_account(service: CurrentService, who: Reader, service_account_id: UUID) -> Response:
    """Read a service account, and what is known of its secrets."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await one(tx, who, "service_account", "service_account_id", service_account_id, "service account")
        credentials = await tx.fetch(
            "select * from service_account_credential where tenant_id = $1 and service_account_id = $2"
            " order by credential_id",
            who.tenant_id,
            service_account_id,
        )
    account: dict[str, Any] = dict(ServiceAccountView.of(row))
    detail = ServiceAccountDetail(credentials=[CredentialView.of(item) for item in credentials], **account)
    return json(detail, headers={"ETag": etag(detail.version)})


@router.patch(_ACCOUNT, response_model=ServiceAccountView)
async def update_service_account(
    request: Request, service: CurrentService, who: Writer, service_account_id: UUID, body: ServiceAccountChange
) -> Response:
    """Change what a service account may do; send its ETag as If-Match. With fewer scopes its access tokens end."""
    changes = body.model_dump(exclude_unset=True)
    async with service.db.for_tenant(who.tenant_id) as tx:
        row = await change_service_account(tx, service, request, who, service_account_id, changes)
    return json(ServiceAccountView.of(row), headers={"ETag": etag(row["version"])})


@router.delete(_ACCOUNT, status_code=204, response_class=Response)
async def remove_service_account(service: CurrentService, who: Writer, service_account_id: UUID) -> Response:
    """Delete a service account; its secrets and access tokens end."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        await delete_service_account(tx, service, who, service_account_id)
    return Response(status_code=204)


@router.post(f"{_ACCOUNT}/credentials", status_code=201, response_model=CredentialWithSecret)
async def add_service_account_credential(
    request: Request, service: CurrentService, who: Writer, service_account_id: UUID, body: CredentialData
) -> Response:
    """Give a service account a second secret, told this once, for the program to change over before the first ends."""

    async def create(tx: Transaction) -> Response:
        lifetime = timedelta(days=body.expires_in_days) if body.expires_in_days else None
        _, credential_id, secret = await add_credential(tx, service, who, service_account_id, lifetime)
        return json(CredentialWithSecret(credential_id=credential_id, secret=secret), 201, _NOT_KEPT)

    return await idempotent(request, service, who, create)


@router.delete(f"{_ACCOUNT}/credentials/{{credential_id}}", status_code=204, response_class=Response)
async def remove_service_account_credential(
    service: CurrentService, who: Writer, service_account_id: UUID, credential_id: UUID
) -> Response:
    """Remove a secret of a service account; the access tokens that were issued for it end."""
    async with service.db.for_tenant(who.tenant_id) as tx:
        await remove_credential(tx, service, who, service_account_id, credential_id)
    return Response(status_code=204)
