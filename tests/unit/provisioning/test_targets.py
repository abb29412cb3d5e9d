"""A target that is not set up here is refused with what is missing, and nothing is begun."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from chassis.settings import Settings
from services.provisioning.domain.saga import RECIPES, Saga
from services.provisioning.instances import instance_url, named, passwords
from services.provisioning.settings import deployment_settings
from services.provisioning.targets import TARGETS
from services.provisioning.use_cases.advance import Unfolding

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = uuid4()
SERVER = "postgresql://somebody:secret@db.example:5432/postgres"


@pytest.fixture(autouse=True)
def settings_read_anew() -> Iterator[None]:
    deployment_settings.cache_clear()
    yield
    deployment_settings.cache_clear()


def begun(target: str) -> Unfolding:
    """Order a deployment, and begin it."""
    row: dict[str, Any] = {
        "tenant_id": TENANT,
        "deployment_id": uuid4(),
        "target": target,
        "operation": "deploy",
        "status": "queued",
        "steps": [],
        "failed_step": None,
        "reason": None,
        "placement": None,
        "version": 0,
        "cause": None,
        "request": {
            "name": "Acme",
            "currency": "USD",
            "country": "US",
            "time_zone": "America/New_York",
            "target": "pooled",
            "dedicated_target": None if target == "pooled" else target,
        },
    }
    item = Unfolding(row)
    item.move(Saga.order(target, "deploy", NOW).start(NOW), NOW)
    return item


def test_every_target_has_recipes_and_every_recipe_a_target() -> None:
    assert TARGETS.keys() == RECIPES.keys()


def test_a_target_that_is_not_set_up_fails_a_deployment_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEPLOYMENT_SERVER_URL", raising=False)
    item = begun("process")
    assert (item.saga.status, item.saga.failed_step) == ("failed", "allocate")
    assert item.saga.reason == "no tenant gets processes of its own here: DEPLOYMENT_SERVER_URL is not set"
    assert [type(each.event).__name__ for each in item.outgoing] == ["DeploymentStarted", "DeploymentFailed"]
    assert begun("pooled").saga.status == "running"


def test_one_that_is_set_up_gives_a_tenant_a_place_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOYMENT_SERVER_URL", SERVER)
    item = begun("process")
    assert (item.saga.status, item.placement) == ("running", f"process-{TENANT}")
    assert item.saga.current is not None
    assert item.saga.current.name == "create_databases"
    assert begun("pooled").placement == "cell-1"


def test_passwords_of_instances_follow_from_the_secret_and_differ() -> None:
    one, another = (Settings.model_validate({"secret_key": letter * 40}) for letter in "ab")
    names = [named(service, tenant) for service in ("customer", "billing") for tenant in (TENANT, UUID(int=1))]
    every = [
        password for settings in (one, another) for name in names for password in passwords(settings, name).values()
    ]
    assert len(set(every)) == len(every) == 32
    assert passwords(one, names[0]) == passwords(one, names[0])
    url = instance_url(one, SERVER, "customer", TENANT, "api")
    assert url.startswith(f"postgresql://customer_{TENANT.hex}_api:")
    assert url.endswith(f"@db.example:5432/dotmac_customer_{TENANT.hex}")
    # PostgreSQL cuts longer names off without a word.
    assert max(len(name) for name in [*passwords(one, names[0]), f"dotmac_{names[0]}"]) < 64
