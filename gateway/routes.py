"""Which service answers which path."""

from collections.abc import Mapping

_API = "/api/v1/"

_PREFIXES = {
    "/.well-known": "tenant",
    "/api/v1/auth": "tenant",
    "/api/v1/tenants": "tenant",
    "/api/v1/users": "tenant",
    "/api/v1/sessions": "tenant",
    "/api/v1/invitations": "tenant",
    "/api/v1/roles": "tenant",
    "/api/v1/sign-ups": "tenant",
    "/api/v1/api-keys": "tenant",
    "/api/v1/service-accounts": "tenant",
    "/api/v1/built-in-roles": "tenant",
    "/api/v1/settings": "tenant",
    "/api/v1/deploy": "tenant",
    "/api/v1/deployment-templates": "tenant",
    "/api/v1/deployments": "provisioning",
    "/api/v1/customers": "customer",
    "/api/v1/workspace": "customer",
    "/api/v1/billing-workspace": "billing",
    "/api/v1/billing-accounts": "billing",
    "/api/v1/billing-runs": "billing",
    "/api/v1/plans": "billing",
    "/api/v1/subscriptions": "billing",
    "/api/v1/invoices": "billing",
    "/api/v1/payments": "billing",
    "/api/v1/events": "integration",
    "/api/v1/webhook-endpoints": "integration",
    "/api/v1/webhook-deliveries": "integration",
    "/api/v1/audit-entries": "integration",
}
PREFIXES: Mapping[str, str] = {
    **_PREFIXES,
    **{f"{_API}{service}-dead-letters": service for service in sorted(set(_PREFIXES.values()))},
}
"""Whole segments: `/api/v1/plans` is not the beginning of `/api/v1/plansets`."""
SIGN_UP = "/api/v1/auth/sign-ups"
"""The path of the operation that needs no token and leaves something behind, which has a limit of its own."""
PUBLIC = frozenset(
    {
        "/api/v1/auth/token",
        "/api/v1/auth/invitations/accept",
        SIGN_UP,
        "/api/v1/auth/password-resets",
        "/api/v1/auth/password-resets/accept",
        "/.well-known/jwks.json",
    }
)
"""Paths of the operations that need no token."""
IMPORTS = frozenset({"/api/v1/customers/imports"})
"""Paths of the operations that take in a file."""
STREAMS = frozenset({"/api/v1/events"})
"""Paths of the operations whose answers go on for as long as their clients like."""

STREAMS_BELOW = {"/api/v1/deployments": "/events"}
"""The same below a prefix, by how their paths end."""


def service_for(path: str) -> str | None:
    """Return whose a path is, or None."""
    return PREFIXES.get(prefix_of(path))


def prefix_of(path: str) -> str:
    """Return the beginning of a path that says whose it is: its first segment, or below `/api/v1` the third."""
    end = path.find("/", len(_API) if path.startswith(_API) else 1)
    return path if end < 0 else path[:end]
