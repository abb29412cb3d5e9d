"""Read and change a tenant's settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from starlette.requests import Request

from chassis.http.preconditions import require_match
from chassis.http.problem import NotFound, Unprocessable
from chassis.ids import new_id
from chassis.messaging.outbox import Outgoing, publish
from chassis.persistence.database import Transaction
from chassis.service import Service
from dotmac_contracts.tenant import SettingsChanged
from services.tenant.domain.settings import SETTINGS, Category, merged, problems


@dataclass(frozen=True, slots=True)
class Kept:
    """What a tenant has given of a category; of one that it never changed, nothing, and the version is 0."""

    given: Mapping[str, int | str]
    secrets: frozenset[str]
    """The names of secret ones that are set."""
    version: int
    updated_at: datetime | None


_NOTHING = Kept({}, frozenset(), 0, None)


def category_of(name: str) -> Category:
    """Return a category by its name; Problem 404 if there is none such."""
    found = SETTINGS.get(name)
    if found is None:
        raise NotFound("category of settings", name)
    return found


async def kept(tx: Transaction, tenant_id: UUID) -> dict[str, Kept]:
    """Return what a tenant has given, by category: of each that there is."""
    rows = await tx.fetch(
        "select category, given, version, updated_at, (select coalesce(array_agg(x.name), '{}') from setting_secret x"
        " where x.tenant_id = s.tenant_id and x.settings_id = s.settings_id) as secrets"
        " from settings s where tenant_id = $1",
        tenant_id,
    )
    found = {row["category"]: _kept(row, row["secrets"]) for row in rows}
    return {name: found.get(name, _NOTHING) for name in SETTINGS}


async def change_settings(
    tx: Transaction, service: Service, request: Request, tenant_id: UUID, by: str, name: str, changes: Mapping[str, Any]
) -> Kept:
    """Apply the changes to the version of the category that the caller read; None sets back to the default."""
    category = category_of(name)
    row = await _locked(tx, service, tenant_id, name)
    require_match(request, row["version"])
    if wrong := problems(category, changes):
        raise Unprocessable(
            "invalid-setting",
            f"Nothing was changed: {len(wrong)} settings of the category {name} can't be set so.",
            errors=[{"pointer": f"/body/{_escaped(each)}", "detail": why} for each, why in list(wrong.items())[:50]],
        )
    return await _changed(tx, service, row, by, changes)


async def set_for(
    tx: Transaction, service: Service, tenant_id: UUID, by: str, name: str, changes: Mapping[str, int | str]
) -> None:
    """Set a tenant's settings, whatever version they have, to values that were looked at."""
    await _changed(tx, service, await _locked(tx, service, tenant_id, name), by, changes)


async def _locked(tx: Transaction, service: Service, tenant_id: UUID, name: str) -> Any:
    """Lock the settings of a category; the first time there are none, and who comes second waits for who makes them."""
    await tx.execute(
        "insert into settings (tenant_id, settings_id, category, created_at, updated_at) values ($1, $2, $3, $4, $4)"
        " on conflict (tenant_id, category) do nothing",
        tenant_id,
        new_id(),
        name,
        service.clock.now(),
    )
    return await tx.fetchrow(
        "select * from settings where tenant_id = $1 and category = $2 for update", tenant_id, name
    )


async def _changed(tx: Transaction, service: Service, row: Any, by: str, changes: Mapping[str, Any]) -> Kept:
    category, ids = SETTINGS[row["category"]], (row["tenant_id"], row["settings_id"])
    secrets = await _secrets(tx, ids)
    open_ones = {name: value for name, value in changes.items() if not category.settings[name].secret}
    given = merged(row["given"], open_ones)
    # Whether a secret is another one can't be told without opening it: it counts as such.
    sealed = {name: value for name, value in changes.items() if name not in open_ones and value is not None}
    cleared = {name for name, value in changes.items() if name not in open_ones and value is None} & secrets
    names = {name for name in open_ones if given.get(name) != row["given"].get(name)} | sealed.keys() | cleared
    if not names:
        return _kept(row, secrets)
    await tx.execute(
        "delete from setting_secret where tenant_id = $1 and settings_id = $2 and name = any($3::text[])",
        *ids,
        [*cleared, *sealed],
    )
    await tx.execute(
        "insert into setting_secret (tenant_id, settings_id, name, sealed)"
        " select $1, $2, * from unnest($3::text[], $4::bytea[])",
        *ids,
        list(sealed),
        [service.vault.seal(value.encode()) for value in sealed.values()],
    )
    after = await tx.fetchrow(
        "update settings set given = $3, version = version + 1, updated_at = $4"
        " where tenant_id = $1 and settings_id = $2 returning *",
        *ids,
        given,
        service.clock.now(),
    )
    assert after is not None
    secrets = await _secrets(tx, ids)
    event = SettingsChanged(
        settings_id=row["settings_id"],
        tenant_id=row["tenant_id"],
        category=row["category"],
        values=given,
        changed=sorted(names),
        secrets=sorted(secrets),
        changed_by=by,
    )
    await publish(tx, [Outgoing(event, after["version"])], source=service.source, clock=service.clock)
    return _kept(after, secrets)


async def _secrets(tx: Transaction, ids: tuple[UUID, UUID]) -> frozenset[str]:
    rows = await tx.fetch("select name from setting_secret where tenant_id = $1 and settings_id = $2", *ids)
    return frozenset(row["name"] for row in rows)


def _kept(row: Any, secrets: frozenset[str] | Sequence[str]) -> Kept:
    version = row["version"]
    return Kept(row["given"], frozenset(secrets), version, row["updated_at"] if version else None)


def _escaped(name: str) -> str:
    """Return a name as a part of a JSON Pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")
