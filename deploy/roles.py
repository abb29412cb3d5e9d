"""The services, and the roles in which each enters its database."""

SERVICES = ("tenant", "customer", "billing", "provisioning", "integration")
ROLES = ("owner", "api", "consumer", "relay")


def login(service: str, role: str) -> str:
    """Return the name of the database role in which a service takes one of its roles."""
    return f"{service}_{role}"


LOGINS = tuple(login(service, role) for service in SERVICES for role in ROLES)


def password_variable(name: str) -> str:
    """Return the environment variable that holds a login's password."""
    return f"{name.upper()}_PASSWORD"
