"""What the platform's plans allow."""

import itertools
from dataclasses import asdict

from dotmac_contracts.quota import Quotas
from services.tenant.domain.plans import PLANS, PlanCode, quotas_of


def test_each_plan_allows_at_least_as_much_as_the_one_before() -> None:
    plans = [[limit or float("inf") for limit in asdict(quotas).values()] for quotas in PLANS.values()]
    assert list(PLANS) == list(PlanCode)
    for less, more in itertools.pairwise(plans):
        assert all(one <= other for one, other in zip(less, more, strict=True))
        assert less != more


def test_a_name_from_before_there_were_plans_has_the_usual_quotas() -> None:
    assert quotas_of("starter") == PLANS[PlanCode.STARTER]
    assert quotas_of("gold since 2019") == PLANS[PlanCode.STANDARD]


def test_events_say_all_of_them() -> None:
    assert Quotas.model_fields.keys() == asdict(PLANS[PlanCode.STARTER]).keys()
