"""What routes ask for: the service they belong to, and a principal that may do what they do."""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from chassis.http.problem import Problem
from chassis.security import actors
from chassis.security.principals import Principal
from chassis.service import Service
from chassis.telemetry import traces

_bearer = HTTPBearer(auto_error=False, bearerFormat="JWT", description="A token from POST /api/v1/auth/token.")


def service_of(request: Request) -> Service:
    """Return the running parts of the service that answers this request."""
    service: Service = request.app.state.service
    return service


CurrentService = Annotated[Service, Depends(service_of)]


def require(*scopes: str) -> Callable[..., Awaitable[Principal]]:
    """Return a dependency that gives the token's principal: 401 without a valid one, 403 without scopes.

    403 as well if its tenant is closed to its users.
    """

    async def principal(
        service: CurrentService, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Principal:
        if credentials is None:
            raise Problem(
                401,
                "missing-token",
                "Send an access token: Authorization: Bearer …",
                headers={"WWW-Authenticate": "Bearer"},
            )
        found = await service.tokens.verify(credentials.credentials)
        actors.authenticated(found)
        traces.annotate(traces.TENANT, str(found.tenant_id))
        service.standings.require_open(found)
        missing = sorted(set(scopes) - found.scopes)
        if missing:
            raise Problem(403, "missing-scope", f"The token lacks the scope {' '.join(missing)}.")
        return found

    return principal
