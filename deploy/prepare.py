"""Prepares the servers that the platform stands on: topics, databases with their roles, migrations. Safe to repeat.

As a job: `python -m deploy.prepare`, with `DATABASE_URL` (its user needs CREATEROLE and CREATEDB), `KAFKA_…` as the
services have it, and a password for each role of each service, as in `CUSTOMER_API_PASSWORD`.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

from chassis.messaging.broker import BrokerError, ensure_topics, ping
from chassis.messaging.security import client_security
from chassis.persistence.database import LOST
from chassis.persistence.migrations import upgrade
from chassis.settings import KafkaSettings
from deploy.roles import LOGINS, SERVICES, login, password_variable
from deploy.scram import verifier

_PATIENCE_SECONDS = 90.0
_CONNECT_SECONDS = 10.0


class Refused(Exception):
    """A server does not answer, or does not allow what the platform needs; the message says which and why."""


def database_url(server_url: str, service: str, role: str, password: str) -> str:
    """Return the address of a service's database on a server, as one of its roles."""
    server = urlsplit(server_url)
    place = server.netloc.rpartition("@")[2]
    credentials = f"{login(service, role)}:{quote(password, safe='')}"
    return urlunsplit(("postgresql", f"{credentials}@{place}", f"/dotmac_{service}", server.query, ""))


async def prepare_databases(server_url: str, passwords: Mapping[str, str], *, say: Callable[[str], None]) -> None:
    """Create the databases and roles that are missing, set the passwords (by login), and run the migrations.

    The server's user needs CREATEROLE and CREATEDB, no more. Refused if the server does not answer or allow it.
    """
    say("creating databases and roles")
    connection = await _connect(server_url)
    try:
        await create_roles(connection, {name: passwords[name] for name in LOGINS})
        for service in SERVICES:
            await create_database(connection, service)
    except asyncpg.PostgresError as error:
        raise Refused(f"PostgreSQL at {_place(server_url)} refuses to create roles and databases: {error}") from None
    finally:
        await connection.close()
    say("running the migrations")
    for service in SERVICES:
        await upgrade(service, database_url(server_url, service, "owner", passwords[login(service, "owner")]))


async def _connect(server_url: str) -> "asyncpg.Connection[asyncpg.Record]":
    if urlsplit(server_url).scheme not in ("postgresql", "postgres"):
        raise Refused("DATABASE_URL must be like postgresql://user:password@host:5432/postgres")
    try:
        return await asyncpg.connect(server_url, timeout=_CONNECT_SECONDS)
    except LOST as error:
        reason = str(error) or type(error).__name__
        raise Refused(f"PostgreSQL at {_place(server_url)} does not let the platform in: {reason}") from error


def _place(server_url: str) -> str:
    """Return host and port; the rest of an address holds a password."""
    return urlsplit(server_url).netloc.rpartition("@")[2]


async def create_roles(connection: "asyncpg.Connection[asyncpg.Record]", passwords: Mapping[str, str]) -> None:
    """Create the logins that are missing, and set their passwords; Refused if the connection's user may not."""
    user = await connection.fetchrow(
        "select rolname, rolsuper, rolcreaterole, rolcreatedb from pg_roles where rolname = current_user"
    )
    assert user is not None
    lacking = [name for name in ("createrole", "createdb") if not user["rolsuper"] and not user[f"rol{name}"]]
    if lacking:
        raise Refused(
            f"the user {user['rolname']} of DATABASE_URL may not create roles and databases:"
            f" a superuser must `alter role {user['rolname']} {' '.join(lacking)}`"
        )
    existing = await connection.fetch(
        "select rolname, rolsuper or rolbypassrls as unbound from pg_roles where rolname = any($1)", list(passwords)
    )
    if unbound := [row["rolname"] for row in existing if row["unbound"]]:  # law 5
        raise Refused(f"row-level security does not bind {', '.join(unbound)}: `alter role … nosuperuser nobypassrls`")
    known = {row["rolname"] for row in existing}
    for name in passwords:
        verb = "alter" if name in known else "create"
        # The server is told the verifier, not the password: a statement can end up in its log (law 10).
        await connection.execute(f"{verb} role {name} login password '{verifier(passwords[name])}'")
        if not user["rolsuper"]:
            await connection.execute(f"grant {name} to current_user")  # else it can make no database for an owner


async def create_database(connection: "asyncpg.Connection[asyncpg.Record]", service: str) -> None:
    """Create a service's database if it is missing; its owner is there."""
    database = f"dotmac_{service}"
    if not await connection.fetchval("select 1 from pg_database where datname = $1", database):
        await connection.execute(f"create database {database} owner {login(service, 'owner')}")


def main() -> None:
    """Prepare the servers that the environment names."""
    needed = ("DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", *map(password_variable, LOGINS))
    if missing := [name for name in needed if not os.environ.get(name)]:
        sys.exit(f"Nothing is prepared: the environment lacks {', '.join(missing)}")
    passwords = {name: os.environ[password_variable(name)] for name in LOGINS}
    try:
        asyncio.run(_job(os.environ["DATABASE_URL"], os.environ["KAFKA_BOOTSTRAP_SERVERS"], passwords))
    except (Refused, BrokerError, asyncpg.PostgresError, OSError) as error:
        sys.exit(f"The servers are not prepared: {error or type(error).__name__}")


async def _job(server_url: str, kafka: str, passwords: Mapping[str, str]) -> None:
    security = client_security(KafkaSettings())
    async with asyncio.timeout(_PATIENCE_SECONDS):
        await asyncio.gather(_answers(_probe(server_url)), _answers(lambda: ping(kafka, security=security)))
    _say("creating topics")
    replication_factor = int(os.environ.get("KAFKA_REPLICATION_FACTOR") or 1)
    await ensure_topics(kafka, replication_factor=replication_factor, security=security)
    await prepare_databases(server_url, passwords, say=_say)


def _probe(server_url: str) -> Callable[[], Awaitable[None]]:
    async def probe() -> None:
        connection = await asyncpg.connect(server_url)
        await connection.close()

    return probe


async def _answers(probe: Callable[[], Awaitable[None]]) -> None:
    """Return once a server that may still be starting answers."""
    while True:
        try:
            return await probe()
        except (BrokerError, asyncpg.CannotConnectNowError, OSError) as error:
            _say(f"waiting: {error}")
            await asyncio.sleep(1)


def _say(message: str) -> None:
    print(message, flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
