"""Starts a service as its own module does, with points at which it can be made to kill itself.

`python -m tests.chaos.instrumented customer`, in its environment:
  CRASH_FILE         when this file is there, `{"point": "before send", "passage": 3, "mark": "…"}`, the process takes
                     it away and ends by SIGKILL at that passage of that point; with `"since": ["Event", 2]` passages
                     count once that event went into the outbox so often, first of all that transaction's own
                     (POINTS; and of what provisioning does for a tenant's own place, POINTS_AT_TARGETS)
  LEADS_REGARDLESS   set, its relay takes itself for the leader, whoever else leads
The service's code knows nothing of it: what is wrapped are the drivers that it talks through.
"""

import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import asyncpg
from aiodocker import Docker
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.client import AIOKafkaClient

from chassis.run import main
from deploy.stack.forking import ForkServer

_STEPS = (
    "domain commit",
    "send",
    "acknowledgement",
    "outbox delete",
    "inbox insert",
    "effect commit",
    "offset commit",
)
POINTS = tuple(f"{when} {step}" for step in _STEPS for when in ("before", "after"))
"""Where a process can be made to end. `domain commit`: of what wrote to the outbox and handled no event."""
_STEPS_AT_TARGETS = {
    "definition": re.compile(r"\s*(create|alter|drop) (role|database)\b"),
    "wish": re.compile(r"\s*insert into instance\b"),
    "record": re.compile(r"\s*update instance set ports\b"),
    "choice": re.compile(r"\s*update instance set deployment_id\b"),
    "hold": re.compile(r"\s*insert into moving\b"),
    "copy": re.compile(r'\s*insert into "\w+" \(.* json_populate_recordset', re.DOTALL),
    "opening": re.compile(r"\s*(delete from|update) moving\b"),
    "journal": re.compile(r"\s*insert into journal\b"),
    "removal": re.compile(r'\s*delete from "\w+" where tenant_id'),
}
POINTS_AT_TARGETS = (
    *(
        f"{when} {step}"
        for step in (*_STEPS_AT_TARGETS, "step commit", "engine change")
        for when in ("before", "after")
    ),
    *("before migration", "after fork"),
)
"""`definition`: of a role or a database; `wish`: for instances; `record`: of those that run; `step commit`: of what
saved a deployment and handled no event; `migration`: to a next version, all of them in one transaction; `fork`: of
what migrates, which is half-way then and ends with what forked it; `engine change`: what is asked of a container
engine but for looks. Of a move, in each of the two databases: `hold` and `opening` of a tenant's rows, `copy` and
`removal` of a table's, `journal`."""

_PRODUCE = 0  # the key of the request, in Kafka's protocol
_FILE = Path(os.environ.get("CRASH_FILE", os.devnull))
_passages: Counter[str] = Counter()
_told: Counter[str] = Counter()
"""Events that went into the outbox of which a file asks, by its mark."""
_written: "WeakKeyDictionary[Any, set[str]]" = WeakKeyDictionary()
"""Of each connection: which of outbox, inbox and deployments its transaction has written to."""


def _wanted() -> Any:
    try:
        return json.loads(_FILE.read_text() or "null")
    except FileNotFoundError:
        return None


def _note_events(args: tuple[Any, ...]) -> None:
    """Count what a statement puts into the outbox, if the file asks for it."""
    wanted = _wanted()
    if wanted is not None and wanted.get("since") and f".{wanted['since'][0]}" in str(args):
        _told[wanted["mark"]] += 1


def passing(point: str) -> None:
    """End this process, as SIGKILL does, if this is the passage that the file asks for."""
    wanted = _wanted()
    if wanted is None or wanted["point"] != point:
        return
    if wanted.get("since") and _told[wanted["mark"]] < wanted["since"][1]:
        return
    _passages[wanted["mark"]] += 1
    if _passages[wanted["mark"]] == wanted["passage"]:
        _FILE.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def _steps_of(connection: Any, sql: str) -> list[str]:
    """Return the steps that a statement does."""
    written = _written.setdefault(connection, set())
    if re.match(r"\s*begin\b", sql):
        written.clear()
    steps = [step for step, statement in _STEPS_AT_TARGETS.items() if statement.match(sql)]
    if "delete from outbox" in sql:
        steps.append("outbox delete")
    if "insert into inbox" in sql:
        written.add("inbox")
        steps.append("inbox insert")
    if "insert into outbox" in sql:
        written.add("outbox")
    if "update deployment d set" in sql:
        written.add("deployment")
    if re.search(r"\bcommit\b", sql):
        if "inbox" in written:
            steps.append("effect commit")
        elif "outbox" in written:
            steps.append("domain commit")
        if "deployment" in written and "inbox" not in written:
            steps.append("step commit")
    return steps


def _watch_statements() -> None:
    def watched(method: Any) -> Any:
        async def run(connection: Any, sql: str, *args: Any, **options: Any) -> Any:
            steps = _steps_of(connection, sql.lower())
            for step in steps:
                passing(f"before {step}")
            if "insert into outbox" in sql.lower():
                _note_events(args)
            result = await method(connection, sql, *args, **options)
            for step in steps:
                passing(f"after {step}")
            return result

        return run

    for name in ("execute", "fetch", "fetchrow", "fetchval"):
        setattr(asyncpg.Connection, name, watched(getattr(asyncpg.Connection, name)))
    prepare = asyncpg.Connection.prepare

    async def watched_prepare(connection: Any, sql: str, **options: Any) -> Any:  # how SQLAlchemy's driver begins
        if re.match(r"\s*(insert into|update) alembic_version\b", sql.lower()):
            passing("before migration")
        return await prepare(connection, sql, **options)

    asyncpg.Connection.prepare = watched_prepare  # type: ignore[method-assign]


def _watch_broker() -> None:
    send_batch, request, commit = AIOKafkaProducer.send_batch, AIOKafkaClient.send, AIOKafkaConsumer.commit

    def acknowledged(future: Any) -> None:
        if not future.cancelled() and future.exception() is None:
            passing("after acknowledgement")

    async def watched_send(producer: Any, *args: Any, **options: Any) -> Any:
        passing("before send")
        future = await send_batch(producer, *args, **options)
        passing("after send")
        future.add_done_callback(acknowledged)
        return future

    async def watched_request(client: Any, node_id: Any, what: Any, **options: Any) -> Any:
        answer = await request(client, node_id, what, **options)
        if getattr(what, "API_KEY", None) == _PRODUCE:
            passing("before acknowledgement")  # the broker has the batch, and nobody here knows
        return answer

    async def watched_commit(consumer: Any, *args: Any, **options: Any) -> Any:
        passing("before offset commit")
        result = await commit(consumer, *args, **options)
        passing("after offset commit")
        return result

    AIOKafkaProducer.send_batch = watched_send
    AIOKafkaClient.send = watched_request
    AIOKafkaConsumer.commit = watched_commit


def _watch_forks() -> None:
    fork = ForkServer.fork

    async def watched(server: Any, command: Any, *args: Any) -> Any:
        process = await fork(server, command, *args)
        if "chassis.persistence.migrations" in command:
            passing("after fork")
        return process

    ForkServer.fork = watched  # type: ignore[method-assign]


def _watch_engine() -> None:
    query = Docker._do_query

    async def watched(docker: Any, path: Any, method: str, **options: Any) -> Any:
        changes = method.upper() != "GET"
        if changes:
            passing("before engine change")
        answer = await query(docker, path, method, **options)
        if changes:
            passing("after engine change")
        return answer

    Docker._do_query = watched  # type: ignore[method-assign]


def _lead_regardless() -> None:
    fetchval = asyncpg.Connection.fetchval

    async def always(connection: Any, sql: str, *args: Any, **options: Any) -> Any:
        if "pg_try_advisory_lock" in sql:
            return True
        return await fetchval(connection, sql, *args, **options)

    asyncpg.Connection.fetchval = always  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    _watch_statements()
    _watch_broker()
    _watch_forks()
    _watch_engine()
    if os.environ.get("LEADS_REGARDLESS"):
        _lead_regardless()
    main(f"services.{sys.argv[1]}.app")
