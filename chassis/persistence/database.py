"""One transaction, one connection, one tenant context (laws 1, 4 and 5)."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import structlog
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql import ClauseElement

log = structlog.get_logger()

OUTBOX_CHANNEL = "outbox"
HELD = "moving"
"""The constraint that a database names when it refuses to change rows of a tenant that is being moved."""

LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError, TimeoutError)
"""What a statement may end with when the server or the line is lost. asyncpg's InternalClientError is a loss that it
meets between two of its own steps, as in "cannot switch to state 12"."""
_CLOSING_SECONDS = 2.0
_DIALECT = postgresql.dialect(paramstyle="numeric_dollar")  # type: ignore[no-untyped-call]


class Transaction:
    """An open transaction on one connection. Statements take `$1` placeholders; plans are cached by text."""

    def __init__(self, connection: "asyncpg.pool.PoolConnectionProxy[Any]", tenants: Collection[UUID]) -> None:
        self._connection = connection
        self.tenants = frozenset(tenants)
        self.wrote_outbox = False
        self._after_commit: list[Callable[[], object]] = []
        self._wakes: dict[str, set[str]] = {}

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        """Run a statement and return its rows."""
        rows: list[asyncpg.Record] = await self._connection.fetch(sql, *args)
        return rows

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        """Run a statement and return its first row, or None."""
        return await self._connection.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """Run a statement and return the first column of its first row, or None."""
        return await self._connection.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        """Run a statement and return its command tag, as in `UPDATE 3`."""
        tag: str = await self._connection.execute(sql, *args)
        return tag

    async def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Insert many rows into a table without row-level security, which costs least of all ways."""
        await self._connection.copy_records_to_table(table, columns=columns, records=rows)

    async def run(self, statement: ClauseElement) -> list[asyncpg.Record]:
        """Run a SQLAlchemy Core statement, such as a list with filters of the caller's choice."""
        compiled = statement.compile(dialect=_DIALECT, compile_kwargs={"render_postcompile": True})
        names: list[str] = compiled.positiontup or []  # type: ignore[attr-defined]
        return await self.fetch(str(compiled), *(compiled.params[name] for name in names))

    async def set_tenants(self, tenants: Iterable[UUID]) -> None:
        """Confine the rest of the transaction to these tenants (the consumer role's context)."""
        self.tenants = frozenset(tenants)
        await self._connection.execute(f"set local app.tenant_ids = '{_joined(self.tenants)}'")

    def after_commit(self, callback: Callable[[], object]) -> None:
        """Call back once what was done is committed, and never if it is undone: the place to count what happened."""
        self._after_commit.append(callback)

    def wake(self, channel: str, keys: Iterable[object]) -> None:
        """Have those who watch these keys of a channel look again, in whatever process, once this is committed."""
        self._wakes.setdefault(channel, set()).update(map(str, keys))

    def _committed(self) -> None:
        for callback in self._after_commit:
            callback()

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """Undo what is done inside on an exception, and keep the transaction."""
        # By hand, as the transaction itself: asyncpg's own would refuse to nest in one it did not begin.
        await self._connection.execute("savepoint inner_work")
        waiting = len(self._after_commit)
        try:
            yield
        except BaseException:
            del self._after_commit[waiting:]
            await self._connection.execute("rollback to savepoint inner_work")
            raise
        await self._connection.execute("release savepoint inner_work")


def _joined(tenants: Iterable[UUID]) -> str:
    # str() of a UUID holds hexadecimal digits and hyphens only, so it can stand inside a statement.
    return ",".join(str(UUID(str(tenant))) for tenant in tenants)


async def close(connection: "asyncpg.Connection[Any]") -> None:
    """Close a connection, which may be lost already."""
    with contextlib.suppress(*LOST):
        await connection.close(timeout=_CLOSING_SECONDS)


def _payloads(keys: Sequence[str]) -> list[str]:
    """Return keys in pieces that fit into a notification, of at most 8,000 bytes; one without any if there are none."""
    return [",".join(keys[start : start + 200]) for start in range(0, max(1, len(keys)), 200)]


class Database:
    """A pool of connections to a service's own database, as one of its roles."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int = 10,
        application_name: str = "dotmac",
        limits: Mapping[str, str] | None = None,
    ) -> None:
        """`limits`: server settings that end what takes too long, such as `statement_timeout`."""
        self._limits = dict(limits or {})
        self._url = url
        self._pool_size = pool_size
        self._application_name = application_name
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._bell = asyncio.Event()
        self._rung: dict[str, set[str]] = {}
        """What is to be notified: keys by channel, and none where the channel's name says all."""
        self._ringer: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Open the pool; raises what asyncpg raises when the server can't be reached."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=self._pool_size,
            init=_set_codecs,
            reset=_nothing_to_reset,
            server_settings={"application_name": self._application_name, "jit": "off", **self._limits},
        )
        self._ringer = asyncio.create_task(self._ring(), name="outbox-bell")

    async def close(self) -> None:
        """Close every connection."""
        if self._ringer:
            self._ringer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ringer
        if self._pool:
            await self._pool.close()

    def for_tenant(self, tenant: UUID) -> contextlib.AbstractAsyncContextManager[Transaction]:
        """Open a transaction that sees one tenant's rows (the API's role)."""
        return self._transaction(f"begin; set local app.tenant_id = '{_joined([tenant])}'", [tenant])

    def for_tenants(self, tenants: Collection[UUID]) -> contextlib.AbstractAsyncContextManager[Transaction]:
        """Open a transaction that sees these tenants' rows (the consumers' role)."""
        return self._transaction(f"begin; set local app.tenant_ids = '{_joined(tenants)}'", tenants)

    def unscoped(self) -> contextlib.AbstractAsyncContextManager[Transaction]:
        """Open a transaction without a tenant: guarded rows are invisible to it."""
        return self._transaction("begin", [])

    @contextlib.asynccontextmanager
    async def _transaction(self, opening: str, tenants: Collection[UUID]) -> AsyncIterator[Transaction]:
        if self._pool is None:
            raise RuntimeError("the database is not connected: await connect() first")
        async with self._pool.acquire() as connection:
            await connection.execute(opening)  # one round trip for both statements
            transaction = Transaction(connection, tenants)
            try:
                yield transaction
            except BaseException:
                with contextlib.suppress(*LOST):
                    await connection.execute("rollback")
                raise
            await connection.execute("commit")
        transaction._committed()
        if transaction.wrote_outbox:
            self._rung.setdefault(OUTBOX_CHANNEL, set())
        for channel, keys in transaction._wakes.items():
            self._rung.setdefault(channel, set()).update(keys)
        if self._rung:
            self._bell.set()

    async def _ring(self) -> None:
        """Wake the relay, and who else waits, after commits: many commits, one NOTIFY, and never inside a business
        transaction, where it would take a lock across the whole cluster."""
        while True:
            await self._bell.wait()
            self._bell.clear()
            rung, self._rung = self._rung, {}
            try:
                assert self._pool is not None
                async with self._pool.acquire() as connection:
                    for channel, keys in rung.items():
                        for payload in _payloads(sorted(keys)):
                            await connection.execute("select pg_notify($1, $2)", channel, payload)
            except LOST as error:
                # Whoever waits polls as well, so a lost wake-up only delays.
                log.warning("outbox_bell_failed", error=str(error))

    async def ping(self) -> None:
        """Answer, or raise, within two seconds."""
        if self._pool is None:
            raise RuntimeError("the database is not connected")
        async with asyncio.timeout(2):
            await self._pool.fetchval("select 1")


async def _nothing_to_reset(_connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    """What a transaction sets ends with it, so a connection goes back without the round trip of asyncpg's own reset."""


async def _set_codecs(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    # In binary form, which alone a copy takes. That of jsonb begins with its version.
    await connection.set_type_codec(
        "json", encoder=orjson.dumps, decoder=orjson.loads, schema="pg_catalog", format="binary"
    )
    await connection.set_type_codec("jsonb", encoder=_jsonb, decoder=_of_jsonb, schema="pg_catalog", format="binary")


def _jsonb(value: object) -> bytes:
    return b"\x01" + orjson.dumps(value)


def _of_jsonb(data: bytes) -> Any:
    return orjson.loads(data[1:])
