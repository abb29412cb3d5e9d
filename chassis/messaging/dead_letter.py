"""Dead letters: events that a consumer can't handle, and those that wait behind them so that order holds."""

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from aiokafka import ConsumerRecord

from chassis.persistence.database import Transaction
from dotmac_contracts.envelope import DecodeError, decode

ActionName = Literal["replay", "discard"]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter, or an event parked behind one."""

    id: int
    consumer: str
    topic: str
    partition: int
    offset: int
    key: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    value: bytes | None
    parked: bool
    reason: str
    attempts: int
    created_at: datetime
    resolution: str | None


_COLUMNS = (
    'id, consumer, topic, partition, "offset", key, headers, value, parked, reason, attempts, created_at, resolution'
)


def _letter(row: Any) -> DeadLetter:
    # Headers are kept in base64: a record that can't be decoded may hold bytes that are no text.
    headers = tuple((name, base64.b64decode(value)) for name, value in row["headers"])
    return DeadLetter(**{**dict(row), "headers": headers})


async def add(
    tx: Transaction, consumer: str, record: "ConsumerRecord[bytes, bytes]", reason: str, parked: bool
) -> None:
    """Keep a record; the same one again changes nothing."""
    await tx.execute(
        'insert into dead_letter (consumer, topic, partition, "offset", key, headers, value, parked, reason)'
        " values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing",
        consumer,
        record.topic,
        record.partition,
        record.offset,
        record.key,
        [(name, base64.b64encode(value or b"").decode()) for name, value in record.headers],
        record.value,
        parked,
        reason[:4000].replace("\0", ""),
    )


async def list_open(tx: Transaction, consumer: str | None = None, limit: int = 100, after: int = 0) -> list[DeadLetter]:
    """Return the unresolved ones with a larger id than `after`, the oldest first."""
    rows = await tx.fetch(
        f"select {_COLUMNS} from dead_letter where resolved_at is null and ($1::text is null or consumer = $1)"
        " and id > $3 order by id limit $2",
        consumer,
        limit,
        after,
    )
    return [_letter(row) for row in rows]


async def show(tx: Transaction, letter_id: int) -> DeadLetter | None:
    """Return one, with its headers and value."""
    row = await tx.fetchrow(f"select {_COLUMNS} from dead_letter where id = $1", letter_id)
    return _letter(row) if row else None


async def act(tx: Transaction, letter_id: int, action: ActionName, principal: str) -> bool:
    """Replay or discard one, and keep who did it; False if it isn't open."""
    if not await (_request_replay if action == "replay" else _discard)(tx, letter_id):
        return False
    await tx.execute(
        "insert into dead_letter_action (letter_id, action, principal) values ($1, $2, $3)",
        letter_id,
        action,
        principal,
    )
    return True


async def actions(tx: Transaction, letter_id: int) -> list[dict[str, Any]]:
    """Return what was done about one: `action`, `principal` and `at` of each, the oldest first."""
    rows = await tx.fetch(
        "select action, principal, at from dead_letter_action where letter_id = $1 order by id", letter_id
    )
    return [dict(row) for row in rows]


async def _request_replay(tx: Transaction, letter_id: int) -> bool:
    """Ask the running consumer to handle it again, with all that waits behind it."""
    tag = await tx.execute(
        "update dead_letter set replay_requested_at = now() where id = $1 and resolved_at is null", letter_id
    )
    return tag == "UPDATE 1"


async def _discard(tx: Transaction, letter_id: int) -> bool:
    """Give it up, and ask for what waits behind it to be handled."""
    row = await tx.fetchrow(
        f"select {_COLUMNS} from dead_letter where id = $1 and resolved_at is null for update", letter_id
    )
    if row is None:
        return False
    letter = _letter(row)
    await resolve(tx, letter_id, "discarded")
    await _remember(tx, letter)
    await tx.execute(
        "update dead_letter set replay_requested_at = now() where id = (select id from dead_letter"
        " where consumer = $1 and topic = $2 and key = $3 and resolved_at is null order by id limit 1)",
        letter.consumer,
        letter.topic,
        letter.key,
    )
    return True


async def _remember(tx: Transaction, letter: DeadLetter) -> None:
    """Take it into the inbox, so that it stays discarded when it is published again."""
    try:
        envelope, _ = decode(list(letter.headers), letter.value)
    except DecodeError:
        return  # what can't be read is not what was published, and that may still come
    await tx.execute(
        "insert into inbox (consumer, source, event_id) values ($1, $2, $3) on conflict do nothing",
        letter.consumer,
        envelope.source,
        envelope.id,
    )


async def requested(tx: Transaction, consumer: str) -> list[int]:
    """Return the letters whose replay is asked for."""
    rows = await tx.fetch(
        "select id from dead_letter where consumer = $1 and resolved_at is null"
        " and replay_requested_at is not null order by id limit 100",
        consumer,
    )
    return [row["id"] for row in rows]


async def first_of_key(tx: Transaction, letter_id: int) -> DeadLetter | None:
    """Lock and return the oldest open letter with the key of this one, or None if none is left."""
    row = await tx.fetchrow(
        f"select {_COLUMNS} from dead_letter where resolved_at is null and (id = $1 or (consumer, topic, key) ="
        " (select consumer, topic, key from dead_letter where id = $1)) order by id limit 1 for update",
        letter_id,
    )
    return _letter(row) if row else None


async def resolve(tx: Transaction, letter_id: int, resolution: Literal["replayed", "discarded"]) -> None:
    """Close it."""
    await tx.execute("update dead_letter set resolved_at = now(), resolution = $2 where id = $1", letter_id, resolution)


async def failed_again(tx: Transaction, letter_id: int, requested_id: int, reason: str) -> None:
    """Count the attempt, and wait for the next request."""
    await tx.execute(
        "update dead_letter set attempts = attempts + 1, reason = $2, replay_requested_at = null where id = $1",
        letter_id,
        reason[:4000].replace("\0", ""),
    )
    await tx.execute("update dead_letter set replay_requested_at = null where id = $1", requested_id)
