"""Steps that provisioning does itself, whatever comes of them."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson
import pytest

from deploy.security.acls import _standing_still
from services.provisioning import access
from services.provisioning.domain.saga import Saga
from services.provisioning.settings import DeploymentSettings
from services.provisioning.tables import stored_steps
from services.provisioning.use_cases.work import Deployer, _next

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def test_the_time_of_a_step_passes_whatever_goes_wrong_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def unexpected(*_: Any) -> None:
        raise KeyError("what nobody thought of")

    monkeypatch.setattr(access, "verify", unexpected)
    saga = Saga.order("pooled", "repair", NOW).start(NOW)
    for who in ("customer", "billing"):
        saga = saga.done("prepare_workspaces", who, NOW)
    row = {
        "tenant_id": uuid4(),
        "deployment_id": uuid4(),
        "target": "pooled",
        "operation": "repair",
        "steps": orjson.loads(stored_steps(saga)),
        "request": {},
        "status": saga.status,
        "cause": None,
        "failed_step": None,
        "reason": None,
    }
    deployer = Deployer(_standing_still("provisioning"), DeploymentSettings())
    verdict = await deployer._looked_at(row)
    noted = _next(saga, verdict, NOW + timedelta(seconds=1))
    assert noted.current is not None and noted.current.detail == "KeyError('what nobody thought of')"
    over = _next(saga, verdict, NOW + timedelta(minutes=2))
    assert (over.status, over.failed_step) == ("failed", "verify")
    assert over.reason is not None and "what nobody thought of" in over.reason
