"""When the reconciler looks at tenants."""

import pytest

from chassis.settings import Settings
from deploy.security.acls import _standing_still
from services.provisioning.settings import DeploymentSettings
from services.provisioning.use_cases import observe
from services.provisioning.use_cases.reconcile import Reconciler


async def test_it_counts_at_once_and_looks_at_nobody_before_its_next_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []

    async def count(_reconciler: Reconciler) -> None:
        done.append("counted")

    async def administered(_settings: Settings) -> None:
        done.append("looked")
        raise observe.Unanswered("the gateway does not answer")

    monkeypatch.setattr(Reconciler, "_count", count)
    monkeypatch.setattr(observe, "administered", administered)
    reconciler = Reconciler(_standing_still("provisioning"), DeploymentSettings())
    assert await reconciler.look() is False
    assert done == ["counted"]
    assert await reconciler.look() is False
    assert done == ["counted", "looked", "counted"]
