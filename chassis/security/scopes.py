"""Roles, each a set of scopes. A scope is `<resource>:read` or `<resource>:write`; docs/architecture/identity.md lists
who has which."""

from collections.abc import Iterable, Mapping

Roles = Mapping[str, frozenset[str]]


def _scopes(*names: str) -> frozenset[str]:
    """Return scopes from `resource:read`, and from `resource` alone both of it."""
    return frozenset(
        scope for name in names for scope in ((name,) if ":" in name else (f"{name}:read", f"{name}:write"))
    )


_PLATFORM_ADMIN = _scopes(
    "tenants", "deployments", "dead-letters", "users", "roles:read", "credentials", "audit:read", "billing", "settings"
)
PLATFORM_ADMINISTRATOR = "super_admin"
"""The role of those of whom the platform always has one."""
PLATFORM_ROLES: Roles = {
    PLATFORM_ADMINISTRATOR: _PLATFORM_ADMIN | _scopes("roles"),
    "platform_admin": _PLATFORM_ADMIN,
    "support": _scopes("tenants:read", "deployments:read", "dead-letters", "users:read", "audit:read", "settings:read"),
    "readonly": _scopes(
        "tenants:read", "deployments:read", "dead-letters:read", "users:read", "billing:read", "settings:read"
    ),
}
"""Of the platform's own users."""

TENANT_ADMINISTRATOR = "tenant_admin"
"""The role of those of whom a tenant always has one."""
_TENANT_ADMIN = _scopes(
    *("customers", "billing", "deployments:read", "events:read", "webhooks", "users", "roles", "credentials"),
    *("audit:read", "settings"),
)
TENANT_ROLES: Roles = {
    TENANT_ADMINISTRATOR: _TENANT_ADMIN,
    "manager": _scopes(
        *("customers", "billing", "deployments:read", "events:read", "webhooks:read", "users:read", "roles:read"),
        "settings:read",
    ),
    "support": _scopes("customers", "billing:read", "events:read"),
    "sales": _scopes("customers", "billing:read"),
    "technician": _scopes("customers:read", "events:read"),
    "customer": frozenset(),
}
"""Of a tenant's users, beside those that it defines itself."""


def scopes_of(roles: Iterable[str], defined: Roles = TENANT_ROLES) -> frozenset[str]:
    """Return all that these roles may do; one that is not defined, for it was deleted or is yet to come, nothing."""
    return frozenset[str]().union(*(defined.get(role, frozenset()) for role in roles))
