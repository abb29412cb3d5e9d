"""Each database role may do what its work needs, and no more: the grants as they are, against the grants as meant."""

import asyncpg
import pytest

from deploy.roles import ROLES, SERVICES
from deploy.stack.stack import Stack

READ_WRITE = "DELETE INSERT SELECT UPDATE"
# What every service has for its events.
MESSAGING = {
    "outbox": {"api": "INSERT", "consumer": "INSERT", "relay": "DELETE SELECT"},
    "journal": {"relay": "INSERT SELECT"},
    # The API replays and discards dead letters, and takes what it discards into the inbox.
    "inbox": {"api": "INSERT", "consumer": "DELETE INSERT SELECT"},
    "dead_letter": {"api": "SELECT UPDATE", "consumer": "INSERT SELECT UPDATE"},
    "dead_letter_action": {"api": "INSERT SELECT", "consumer": "INSERT SELECT"},
    # Who moves a tenant is the owner.
    "moving": {"api": "SELECT", "consumer": "SELECT"},
    # A new version of a service waits for its migrations by looking here.
    "alembic_version": {"api": "SELECT"},
}
DATA = {"api": READ_WRITE, "consumer": READ_WRITE}
# Nothing in the audit log changes; what is deleted of a tenant that leaves, a policy says.
AUDIT = {
    "audit_entry": {"api": "SELECT", "consumer": "DELETE INSERT SELECT"},
    "audit_state": {"consumer": READ_WRITE},
}

_GRANTS = """
select c.relname as table, g.grantee::regrole::text as role, string_agg(g.privilege_type, ' ' order by g.privilege_type)
    as privileges
from pg_class c cross join lateral aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) g
where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm') and g.grantee <> c.relowner
group by 1, 2
"""


@pytest.mark.parametrize("service", SERVICES)
async def test_the_grants_are_those_that_are_meant(stack: Stack, service: str) -> None:
    connection = await asyncpg.connect(stack.database_url(service, "owner"))
    try:
        found: dict[str, dict[str, str]] = {}
        for row in await connection.fetch(_GRANTS):
            found.setdefault(row["table"], {})[row["role"]] = row["privileges"]
        tables = [
            row[0]
            for row in await connection.fetch(
                "select relname from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p')"
            )
        ]
    finally:
        await connection.close()
    for table in tables:
        meant = {} if table.startswith("journal_") else {**MESSAGING, **AUDIT}.get(table, DATA)
        assert found.get(table, {}) == {f"{service}_{role}": what for role, what in meant.items()}, table


@pytest.mark.parametrize("service", SERVICES)
async def test_no_role_is_more_than_a_role(stack: Stack, service: str) -> None:
    connection = await asyncpg.connect(stack._server_url)
    try:
        for role in ROLES:
            row = await connection.fetchrow(
                "select rolsuper or rolcreaterole or rolcreatedb or rolreplication or rolbypassrls as powerful,"
                " exists (select from pg_auth_members where member = r.oid) as member"
                " from pg_roles r where rolname = $1",
                f"{service}_{role}",
            )
            assert row is not None
            assert (row["powerful"], row["member"]) == (False, False)
        entered = await connection.fetch(
            "select rolname from pg_roles where rolcanlogin and not rolsuper"
            " and has_database_privilege(rolname, $1, 'connect')",
            f"dotmac_{service}",
        )
        assert {row[0] for row in entered} == {f"{service}_{role}" for role in ROLES}
    finally:
        await connection.close()


ALTERATIONS = (
    "create table mine (id int)",
    "create schema mine",
    "create function mine() returns int language sql as 'select 1'",
    "create extension dblink",
    "create role mine",
    "alter role current_user bypassrls",
    "alter table outbox disable row level security",
    "alter table dead_letter add column mine int",
    "drop table outbox",
    "truncate outbox",
    "set role postgres",
    "set session authorization postgres",
    "copy (select 1) to program 'true'",
    "select pg_read_file('/etc/passwd')",
    "select lo_import('/etc/passwd')",
    "select passwd from pg_shadow",
)


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("role", ["api", "consumer", "relay"])
async def test_no_working_role_alters_anything(stack: Stack, service: str, role: str) -> None:
    connection = await asyncpg.connect(stack.database_url(service, role))
    try:
        for statement in ALTERATIONS:
            transaction = connection.transaction()
            await transaction.start()
            try:
                with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError)):
                    await connection.execute(statement)
            finally:
                await transaction.rollback()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("alter system set log_statement = 'all'")
    finally:
        await connection.close()


async def test_the_relay_sees_no_customer_and_the_api_no_outbox(stack: Stack) -> None:
    forbidden = {
        "relay": ("select 1 from customer", "select 1 from inbox", "update outbox set key = ''"),
        "api": (
            "select 1 from outbox",
            "delete from outbox",
            "select 1 from journal",
            "select 1 from inbox",
            "delete from dead_letter",
            "update dead_letter_action set principal = ''",
            "select roll_journal(0)",
        ),
        "consumer": (
            "select 1 from outbox",
            "select 1 from journal",
            "delete from dead_letter",
            "select roll_journal(0)",
        ),
    }
    for role, statements in forbidden.items():
        connection = await asyncpg.connect(stack.database_url("customer", role))
        try:
            for statement in statements:
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        finally:
            await connection.close()
