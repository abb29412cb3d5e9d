"""The roles: each within its administrator's, and all of them documented."""

import re
from pathlib import Path

from chassis.security.scopes import (
    PLATFORM_ADMINISTRATOR,
    PLATFORM_ROLES,
    TENANT_ADMINISTRATOR,
    TENANT_ROLES,
    Roles,
    scopes_of,
)

PAGE = Path(__file__).parents[3] / "docs/architecture/identity.md"


def test_nobody_may_do_more_than_the_administrator() -> None:
    for roles, administrator in ((PLATFORM_ROLES, PLATFORM_ADMINISTRATOR), (TENANT_ROLES, TENANT_ADMINISTRATOR)):
        for name, scopes in roles.items():
            assert scopes <= roles[administrator], name
            assert all(re.fullmatch("[a-z-]+:(read|write)", scope) for scope in scopes)


def test_who_may_write_may_read() -> None:
    for roles in (PLATFORM_ROLES, TENANT_ROLES):
        for name, scopes in roles.items():
            for scope in scopes:
                assert scope.replace(":write", ":read") in scopes, name


def test_the_platform_has_no_place_in_tenants_data() -> None:
    assert not [scope for scope in PLATFORM_ROLES[PLATFORM_ADMINISTRATOR] if scope.startswith("customers")]


def test_a_role_that_is_not_defined_allows_nothing() -> None:
    assert scopes_of(["no_such_role"]) == frozenset()
    assert scopes_of(["super_admin"]) == frozenset()  # the platform's, at a tenant
    assert scopes_of(["super_admin", "sales"]) == TENANT_ROLES["sales"]
    assert scopes_of(["support"], PLATFORM_ROLES) != scopes_of(["support"])


def documented(heading: str) -> Roles:
    """Return the roles in the table below a heading: a column each, `r` for read and `rw` for both."""
    section = PAGE.read_text().split(f"### {heading}\n")[1].split("\n#")[0]
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"
    ]
    head, _, *lines = rows
    roles: dict[str, set[str]] = {name: set() for name in head[1:]}
    for resource, *cells in lines:
        for name, cell in zip(head[1:], cells, strict=True):
            roles[name] |= {
                f"{resource}:{right}" for letter, right in (("r", "read"), ("w", "write")) if letter in cell
            }
    return {name: frozenset(scopes) for name, scopes in roles.items()}


def test_the_page_says_what_each_role_allows() -> None:
    assert documented("The platform's roles") == PLATFORM_ROLES
    assert documented("A tenant's roles") == TENANT_ROLES
