"""Move a tenant between the shared databases and a place of its own, with all its data, while its users work on.

The gateway has its requests wait; then the place where it was holds its rows, all that it told is taken, and its rows
are copied. It is at the other place when that one is opened, and at none in between. Every step can be done again.
"""

import asyncio
import base64
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg
import orjson

from chassis.departure import referring_first
from chassis.messaging.broker import BrokerError, groups_behind
from chassis.messaging.security import client_security
from chassis.persistence.schema import MOVED
from chassis.security.vault import Vault
from chassis.service import Service
from deploy.prepare import Refused
from deploy.roles import login
from dotmac_contracts import topics
from dotmac_contracts.provisioning import DEDICATED
from services.provisioning import access
from services.provisioning.domain.saga import Command
from services.provisioning.instances import InstanceError, instance_url, named, sealing_secrets
from services.provisioning.settings import deployment_settings
from services.provisioning.tables import moved_from
from services.provisioning.targets import TARGETS
from services.provisioning.targets.dedicated import Dedicated, rerouted

_CONNECT_SECONDS = 5.0
_PATIENCE_SECONDS = 2.0
"""For how long one look waits for what is about to end."""
_POLL_SECONDS = 0.02
_ROWS_AT_ONCE = 1_000
_SEALED = {"idempotency_key": "body"}
"""What is sealed under the secret of the place where it is."""
_OWN_GROUP = re.compile(r"-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
_LETTER_TOPICS = [topic.name for topic in topics.ALL if topic.owner in DEDICATED] + [
    topics.PROVISIONING_DEPLOYMENT.name
]

Connection: TypeAlias = "asyncpg.Connection[Any]"

_HOLD = """
insert into moving (tenant_id, deployment_id, held, arrives) values ($1, $2, $3, $4)
on conflict (tenant_id) do update set held = excluded.held
"""
_MOVED_TABLES = "select tablename from pg_policies where schemaname = 'public' and policyname = $1"
_COLUMNS = """
select quote_ident(attname) as name from pg_attribute
where attrelid = quote_ident($1)::regclass and attnum > 0 and not attisdropped and attgenerated = '' order by attnum
"""
# Transactions that began before a tenant was held, and so may not have met that.
_OPEN_TRANSACTIONS = """
select coalesce(array_agg(l.virtualxid), '{}') from pg_locks l join pg_stat_activity a using (pid)
where l.locktype = 'virtualxid' and l.granted and a.datname = current_database() and a.usename = any($1::text[])
"""
_STILL_OPEN = "select exists (select from pg_locks where locktype = 'virtualxid' and virtualxid = any($1::text[]))"
_LETTER = 'consumer, topic, partition, "offset", key, headers, value, parked, reason, attempts, created_at,'
_LETTER += " replay_requested_at, resolved_at, resolution"
_LETTERS = f"""
select id, {_LETTER} from dead_letter
where headers @> jsonb_build_array(jsonb_build_array('ce_tenantid', encode($1::text::bytea, 'base64')))
  and topic = any($2::text[])
"""
_SAME_LETTERS = """
select d.id from dead_letter d
join unnest($1::text[], $2::text[], $3::int[], $4::bigint[]) as x (consumer, topic, partition, "offset")
using (consumer, topic, partition, "offset")
"""
# As `roll_journal` makes them, which drops them in their time.
_MISSING_DAYS = """
select distinct 'journal_' || to_char(t, 'YYYYMMDD') as name, date_trunc('day', t)::text as first,
    (date_trunc('day', t) + interval '1 day')::text as last
from unnest($1::timestamptz[]) as t where to_regclass('journal_' || to_char(t, 'YYYYMMDD')) is null
"""
_DAY = "create table {name} partition of journal for values from ('{first}') to ('{last}')"
_JOURNAL = 'published_at, outbox_id, event_id, topic, key, tenant_id, headers, value, partition, "offset"'


class Place(NamedTuple):
    """Where a tenant is, or goes to: of each service, its database, as its owner."""

    tenant_id: UUID
    shared: bool
    urls: Mapping[str, str]
    names: Mapping[str, str]
    """By which the roles there are known, in place of the service's name."""
    vaults: Mapping[str, Vault]

    @asynccontextmanager
    async def databases(self) -> AsyncIterator[dict[str, Connection]]:
        """Connect to them."""
        async with AsyncExitStack() as stack:
            found = {}
            for service, url in self.urls.items():
                settings = {"application_name": "provisioning-move"}
                found[service] = await asyncpg.connect(url, timeout=_CONNECT_SECONDS, server_settings=settings)
                stack.push_async_callback(found[service].close)
            yield found

    def reads_in(self, group: str) -> bool:
        """Whether a consumer group is one of this place's services."""
        if not self.shared:
            return group.endswith(f"-{self.tenant_id}")
        ours = any(group == service or group.startswith(f"{service}-") for service in DEDICATED)
        return ours and not _OWN_GROUP.search(group)

    async def hold(self, databases: Mapping[str, Connection], deployment_id: UUID, held: str, *, arrives: bool) -> None:
        """Hold what is held of the tenant there."""
        for connection in databases.values():
            await connection.execute(_HOLD, self.tenant_id, deployment_id, held, arrives)

    async def ended(self, databases: Mapping[str, Connection]) -> bool:
        """Wait for what may not have met the hold; say whether it has ended."""
        until = time.monotonic() + _PATIENCE_SECONDS
        for service, connection in databases.items():
            users = [login(self.names[service], role) for role in ("api", "consumer")]
            before = await connection.fetchval(_OPEN_TRANSACTIONS, users)
            while await connection.fetchval(_STILL_OPEN, before):
                if time.monotonic() >= until:
                    return False
                await asyncio.sleep(_POLL_SECONDS)
        return True


def refusal(own: str) -> str | None:
    """Return why no tenant can be moved to or from a place of its own at this target; None if it can."""
    settings = deployment_settings()
    if not settings.customer_database_url or not settings.billing_database_url:
        names = [f"DEPLOYMENT_{service.upper()}_DATABASE_URL" for service in DEDICATED]
        return f"no tenant is moved here: {' and '.join(names)} are not set"
    return TARGETS[own].refusal()


async def do(service: Service, deployment: Any, command: Command) -> str | None:
    """Do one of the commands that are a move's, as often as it takes; return what is wrong yet, or None."""
    try:
        before, tenant_id = moved_from(deployment), deployment["tenant_id"]
        assert before is not None, "it is a move"
        # Each where it is needed: one that is away keeps from nothing that is done at the other.
        here, there = (partial(_place, service, tenant_id, target) for target in (before, deployment["target"]))
        match command:
            case Command.RESERVE:
                await _reserve(await there(), deployment["deployment_id"])
            case Command.GIVE_UP_PLACE:
                async with (await there()).databases() as databases:
                    for connection in databases.values():
                        await connection.execute("delete from moving where tenant_id = $1", tenant_id)
            case Command.HOLD:
                return await _hold(service, deployment, await here())
            case Command.RELEASE:
                await _release(service, deployment, await here())
            case Command.DRAIN:
                return await _drain(service, deployment["deployment_id"], await here(), await there())
            case Command.COPY:
                await _copy_all(await here(), await there())
            case Command.EMPTY:
                async with (await there()).databases() as databases:
                    for connection in databases.values():
                        async with connection.transaction():
                            await _empty(connection, tenant_id)
            case Command.OPEN:
                await _open(await there())
            case Command.MOVE_JOURNAL:
                async with (await here()).databases() as sources, (await there()).databases() as copies:
                    for name in DEDICATED:
                        await _move_journal(sources[name], copies[name], tenant_id)
            case Command.DELETE_SOURCE:
                await _delete(await here())
            case _:
                raise AssertionError(f"no move has {command}")
    except (Refused, InstanceError, BrokerError, Differs, asyncpg.PostgresError) as error:
        return str(error)
    return None


class Differs(Exception):
    """What was copied is not what is there."""


async def _place(service: Service, tenant_id: UUID, target: str) -> Place:
    settings, own = service.settings, TARGETS[target]
    if isinstance(own, Dedicated):
        server_url = await own.server_url(settings, tenant_id)
        names = {name: named(name, tenant_id) for name in DEDICATED}
        return Place(
            tenant_id,
            False,
            {name: instance_url(settings, server_url, name, tenant_id, "owner") for name in DEDICATED},
            names,
            {name: Vault(*sealing_secrets(settings, own_name)) for name, own_name in names.items()},
        )
    shared = deployment_settings()
    urls = {"customer": shared.customer_database_url, "billing": shared.billing_database_url}
    vault = Vault(*settings.sealing_secrets)
    return Place(
        tenant_id,
        True,
        {name: url.get_secret_value() for name, url in urls.items() if url},
        {name: name for name in DEDICATED},
        dict.fromkeys(DEDICATED, vault),
    )


async def _reserve(there: Place, deployment_id: UUID) -> None:
    async with there.databases() as databases:
        await there.hold(databases, deployment_id, "requests", arrives=True)


async def _copy_all(here: Place, there: Place) -> None:
    async with here.databases() as sources, there.databases() as copies:
        for name in DEDICATED:
            await _copy(sources[name], copies[name], name, here, there)


async def _hold(service: Service, deployment: Any, here: Place) -> str | None:
    """Have the gateway keep the tenant's requests back, and the databases refuse those that come another way.

    Not before those who take what its place tells have caught up: nobody waits for what others have told.
    """
    async with service.consumer_db.for_tenants([here.tenant_id]) as tx:
        held = await tx.fetchval("select on_hold from instance where tenant_id = $1", here.tenant_id)
    if not held and (found := await _behind(service, here)):
        return found
    await rerouted(service, deployment, "on_hold = true where tenant_id = $1 and not on_hold")
    if wrong := await access.verify_held(service.settings, here.tenant_id):
        return wrong
    async with here.databases() as databases:
        await here.hold(databases, deployment["deployment_id"], "requests", arrives=False)
        return None if await here.ended(databases) else "transactions are under way still"


async def _release(service: Service, deployment: Any, here: Place) -> None:
    async with here.databases() as databases:
        await _let_go(databases, here.tenant_id)
    await rerouted(service, deployment, "on_hold = false where tenant_id = $1 and on_hold")


async def _let_go(databases: Mapping[str, Connection], tenant_id: UUID) -> None:
    """Hold nothing of the tenant any more; an instance that it once arrived at goes on to know by which deployment."""
    for connection in databases.values():
        await connection.execute("delete from moving where tenant_id = $1 and not arrives", tenant_id)
        await connection.execute("update moving set held = 'nothing' where tenant_id = $1", tenant_id)


async def _behind(service: Service, here: Place) -> str | None:
    """Return who has not taken what the tenant's place told until now, if anybody."""
    security, servers = client_security(service.settings), service.settings.kafka_bootstrap_servers
    behind = await groups_behind(servers, here.reads_in, _PATIENCE_SECONDS, security=security)
    return f"not all was taken yet by {', '.join(behind)}" if behind else None


async def _drain(service: Service, deployment_id: UUID, here: Place, there: Place) -> str | None:
    """Wait until all that the tenant's place told is taken; then nobody changes anything of the tenant any more."""

    async def wrong(sources: Mapping[str, Connection]) -> str | None:
        for name, connection in sources.items():
            if await connection.fetchval("select exists (select from outbox where tenant_id = $1)", here.tenant_id):
                return f"{name} has events to publish still"
        return await _behind(service, here)

    async with here.databases() as sources, there.databases() as copies:
        if found := await wrong(sources):
            return found
        await there.hold(copies, deployment_id, "everything", arrives=True)
        await here.hold(sources, deployment_id, "everything", arrives=False)
        # What consumers and workers did until now may have told something.
        found = None if await here.ended(sources) else "transactions are under way still"
        found = found or await wrong(sources)
        if found:
            await here.hold(sources, deployment_id, "requests", arrives=False)
        elif not await there.ended(copies):
            found = "transactions are under way still"
        return found


async def _tables(connection: Connection) -> list[str]:
    """Return the tables whose rows go with their tenant, those that refer to others first."""
    return await referring_first(connection, [row[0] for row in await connection.fetch(_MOVED_TABLES, MOVED)])


async def _copy(source: Connection, copy: Connection, service: str, here: Place, there: Place) -> None:
    """Copy all rows of a tenant, as they are at one moment, in place of what an earlier attempt has left."""
    tenant_id = here.tenant_id
    async with source.transaction(isolation="repeatable_read", readonly=True), copy.transaction():
        for connection in (source, copy):
            await connection.execute("set local timezone = 'UTC'")
        await _empty(copy, tenant_id)
        for table in reversed(await _tables(source)):
            columns = [row["name"] for row in await source.fetch(_COLUMNS, table)]
            sealed = _SEALED.get(table)
            listed = ", ".join(columns)
            rows = await source.cursor(
                f'select row_to_json(r)::text as line from (select {listed} from "{table}" where tenant_id = $1) as r',
                tenant_id,
            )
            while found := await rows.fetch(_ROWS_AT_ONCE):
                lines = [row["line"] for row in found]
                if sealed:
                    lines = [_sealed_anew(line, sealed, here.vaults[service], there.vaults[service]) for line in lines]
                await copy.execute(
                    f'insert into "{table}" ({listed})'
                    f' select {listed} from json_populate_recordset(null::"{table}", $1::json)',
                    f"[{','.join(lines)}]",
                )
            compared = ", ".join(column for column in columns if column != sealed)
            if (said := await _sum(source, table, compared, tenant_id)) != await _sum(copy, table, compared, tenant_id):
                raise Differs(f"the copy of {table} is not as the {said[0]} rows that were copied")
        await _copy_letters(source, copy, here)


async def _sum(connection: Connection, table: str, columns: str, tenant_id: UUID) -> tuple[int, int]:
    """Count a tenant's rows, and add up what they hold."""
    row = await connection.fetchrow(
        "select count(*), coalesce(sum(('x' || left(md5(row_to_json(r)::text), 16))::bit(64)::bigint), 0)"
        f' from (select {columns} from "{table}" where tenant_id = $1) as r',
        tenant_id,
    )
    assert row is not None
    return row[0], int(row[1])


def _sealed_anew(line: str, column: str, here: Vault, there: Vault) -> str:
    """Return a row whose sealed column can be opened at the other place."""
    row = orjson.loads(line)
    if row[column] is not None:
        row[column] = "\\x" + there.seal(here.open(bytes.fromhex(row[column][2:]))).hex()
    return orjson.dumps(row).decode()


async def _empty(connection: Connection, tenant_id: UUID) -> None:
    for table in await _tables(connection):
        await connection.execute(f'delete from "{table}" where tenant_id = $1', tenant_id)


async def _letters(source: Connection, here: Place) -> Sequence[Any]:
    """Return the dead letters of what only the instance takes that works for the tenant."""
    rows = await source.fetch(_LETTERS, str(here.tenant_id), _LETTER_TOPICS)
    return [row for row in rows if not (here.shared and _is_of_an_instance(row["headers"]))]


def _is_of_an_instance(headers: str) -> bool:
    """Whether a letter tells what an instance of the tenant's own told: who shares takes it for the platform."""
    said = dict(orjson.loads(headers))
    return base64.b64decode(said.get("ce_source", "")).count(b"/") > 2


async def _copy_letters(source: Connection, copy: Connection, here: Place) -> None:
    letters = await _letters(source, here)
    keys = [(row["consumer"], row["topic"], row["partition"], row["offset"]) for row in letters]
    same = [row["id"] for row in await copy.fetch(_SAME_LETTERS, *_columns(keys, 4))]
    await _delete_letters(copy, same)
    places = ", ".join(f"${number}" for number in range(1, _LETTER.count(",") + 2))
    await copy.executemany(
        f"insert into dead_letter ({_LETTER}) values ({places})", [tuple(row)[1:] for row in letters]
    )
    known = {row["id"]: key for row, key in zip(letters, keys, strict=True)}
    actions = await source.fetch(
        "select letter_id, principal, action, at from dead_letter_action where letter_id = any($1::bigint[])"
        " order by id",
        list(known),
    )
    await copy.executemany(
        "insert into dead_letter_action (letter_id, principal, action, at) select id, $5, $6, $7 from dead_letter"
        ' where consumer = $1 and topic = $2 and partition = $3 and "offset" = $4',
        [(*known[row["letter_id"]], row["principal"], row["action"], row["at"]) for row in actions],
    )


async def _delete_letters(connection: Connection, ids: Sequence[int]) -> None:
    for table, column in (("dead_letter_action", "letter_id"), ("dead_letter", "id")):
        await connection.execute(f"delete from {table} where {column} = any($1::bigint[])", ids)


async def _open(there: Place) -> None:
    """Let the place work that the tenant has come to: from here on it is there."""
    async with there.databases() as databases:
        if there.shared:
            for connection in databases.values():
                await connection.execute("delete from moving where tenant_id = $1", there.tenant_id)
        else:
            await _let_go(databases, there.tenant_id)


async def _move_journal(source: Connection, copy: Connection, tenant_id: UUID) -> None:
    """Have what was told of the tenant follow it, to be told again from there."""
    while rows := await source.fetch(
        f"select {_JOURNAL} from journal where tenant_id = $1 order by published_at limit $2", tenant_id, _ROWS_AT_ONCE
    ):
        ids = [row["event_id"] for row in rows]
        columns = _columns([tuple(row) for row in rows], len(_JOURNAL.split(",")))
        for day in await copy.fetch(_MISSING_DAYS, columns[0]):
            await copy.execute(_DAY.format(**day))
        await copy.execute(
            f"insert into journal ({_JOURNAL}) select x.* from unnest($1::timestamptz[], $2::bigint[], $3::uuid[],"
            " $4::text[], $5::text[], $6::uuid[], $7::json[], $8::bytea[], $9::int[], $10::bigint[])"
            f" as x ({_JOURNAL}) where not exists (select from journal j where j.event_id = x.event_id)",
            *columns,
        )
        await source.execute("delete from journal where tenant_id = $1 and event_id = any($2::uuid[])", tenant_id, ids)


async def _delete(here: Place) -> None:
    """Delete what was copied, and tell nobody: the tenant did not leave. Then nothing is held there."""
    async with here.databases() as databases:
        for connection in databases.values():
            async with connection.transaction():
                await _delete_from(connection, here)


async def _delete_from(connection: Connection, here: Place) -> None:
    await _delete_letters(connection, [row["id"] for row in await _letters(connection, here)])
    await _empty(connection, here.tenant_id)
    for table in await _tables(connection):
        left = await connection.fetchval(f'select count(*) from "{table}" where tenant_id = $1', here.tenant_id)
        if left:
            raise Differs(f"{table} has {left} rows left")
    await connection.execute("delete from moving where tenant_id = $1", here.tenant_id)


def _columns(rows: Sequence[Sequence[Any]], number: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(number)]
