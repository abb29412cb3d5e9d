"""Which service answers which path."""

from collections.abc import Mapping

PREFIXES: Mapping[str, str] = {
    "/.well-known/": "tenant",
    "/api/v1/auth": "tenant",
    "/api/v1/tenants": "tenant",
    "/api/v1/deploy": "tenant",
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
}
PUBLIC = frozenset({"/api/v1/auth/token", "/api/v1/auth/invitations/accept", "/.well-known/jwks.json"})
IMPORTS = frozenset({"/api/v1/customers/imports"})


def service_for(path: str) -> str | None:
    """Return the service of the longest prefix that ends at a path's segment."""
    best = ""
    for prefix in PREFIXES:
        if (path == prefix or path.startswith(prefix.rstrip("/") + "/")) and len(prefix) > len(best):
            best = prefix
    return PREFIXES[best] if best else None
