from uuid import UUID

import pytest

from chassis.clock import SystemClock
from chassis.ids import new_id
from chassis.persistence.database import Database
from chassis.security.tokens import TokenVerifier
from chassis.security.vault import Vault
from chassis.service import Service
from chassis.settings import Settings
from services.billing.app import MICROSERVICE


@pytest.mark.parametrize(
    ("dedicated_to", "names"), [(None, {"billing-runs", "platform-billing"}), (new_id(), {"billing-runs"})]
)
def test_the_shared_service_alone_orders_what_the_platform_bills(dedicated_to: UUID | None, names: set[str]) -> None:
    settings, nowhere = Settings.model_construct(dedicated_to=dedicated_to), Database("")
    vault = Vault("of nothing that is sealed already")
    service = Service("billing", settings, nowhere, nowhere, SystemClock(), TokenVerifier(""), vault)
    assert {worker.name for worker in MICROSERVICE.workers(service)} == names
