"""Roles, each a set of scopes. A scope is `<resource>:read` or `<resource>:write`."""

ROLE_SCOPES: dict[str, frozenset[str]] = {
    "platform_admin": frozenset(
        {
            "tenants:read",
            "tenants:write",
            "deployments:read",
            "deployments:write",
            "dead-letters:read",
            "dead-letters:write",
            "users:read",
            "users:write",
        }
    ),
    "tenant_admin": frozenset(
        {
            "customers:read",
            "customers:write",
            "billing:read",
            "billing:write",
            "deployments:read",
            "events:read",
            "webhooks:read",
            "webhooks:write",
            "users:read",
            "users:write",
        }
    ),
}


def scopes_of(roles: tuple[str, ...]) -> frozenset[str]:
    """Return all that these roles may do; KeyError for a role that doesn't exist."""
    return frozenset[str]().union(*(ROLE_SCOPES[role] for role in roles))
