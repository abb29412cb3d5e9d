"""Whatever is asked of a tenant, it goes only where its status leads, and each change counts one version."""

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis.strategies import booleans, lists, one_of, sampled_from, tuples

from services.tenant.domain.tenant import OF_INSTANCES, TRANSITIONS, Operation, Profile, Refused, Status, Target, Tenant

PROFILE = Profile("Acme", "acme", "a@acme.example", "standard", "USD", "US", "America/New_York")
BEGINS = {
    Operation.DEPLOY: {"registered", "failed"},
    Operation.SUSPEND: {"active"},
    Operation.MAINTAIN: {"active"},
    Operation.RESUME: {"suspended", "maintenance"},
    **{operation: {"active", "suspended", "maintenance"} for operation in OF_INSTANCES},
    Operation.MOVE: {"active", "suspended", "maintenance"},
    Operation.DEPROVISION: set(Status) - {"deploying", "deprovisioned"},
}


def tenant(status: Status, deployment_id: UUID | None = None) -> Tenant:
    return Tenant(uuid4(), PROFILE, status, 1, deployment_id)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("operation", Operation)
def test_an_operation_begins_where_it_is_allowed_and_nowhere_else(operation: Operation, status: Status) -> None:
    before, deployment = tenant(status), uuid4()
    if status not in BEGINS[operation]:
        with pytest.raises(Refused, match=f"is {status}:"):
            before.order(operation, deployment)
        return
    after = before.order(operation, deployment)
    if operation is Operation.DEPLOY:
        assert (after.status, after.version, after.deployment_id) == (Status.DEPLOYING, 2, deployment)
    else:  # its status changes when the deployment gets there
        assert after is before


def test_only_a_deployment_chooses_a_target_and_all_else_is_done_where_the_tenant_is() -> None:
    assert tenant(Status.REGISTERED).target(Operation.DEPLOY, None, None) is Target.POOLED
    assert tenant(Status.FAILED).target(Operation.DEPLOY, Target.PROCESS, Target.POOLED) is Target.PROCESS
    assert tenant(Status.ACTIVE).target(Operation.SUSPEND, None, Target.PROCESS) is Target.PROCESS
    assert tenant(Status.SUSPENDED).target(Operation.RESUME, Target.PROCESS, Target.PROCESS) is Target.PROCESS
    # What failed has left nothing where it was to be.
    assert tenant(Status.FAILED).target(Operation.DEPROVISION, None, Target.PROCESS) is Target.POOLED
    with pytest.raises(Refused, match="at the target process"):
        tenant(Status.ACTIVE).target(Operation.SUSPEND, Target.POOLED, Target.PROCESS)
    for operation in OF_INSTANCES:
        for target in (Target.PROCESS, Target.CONTAINER):
            assert tenant(Status.ACTIVE).target(operation, None, target) is target
        with pytest.raises(Refused, match="no instances of its own"):
            tenant(Status.ACTIVE).target(operation, None, Target.POOLED)


@given(
    lists(
        one_of(
            tuples(sampled_from(("go",)), one_of(sampled_from(Status), sampled_from(Operation))),
            tuples(sampled_from(("ended",)), booleans()),
        )
    )
)
def test_every_change_is_a_transition_that_is_allowed_and_a_version(asked: list[tuple[str, object]]) -> None:
    now = tenant(Status.REGISTERED)
    for what, argument in asked:
        before, deployment = now, uuid4()
        try:
            if what == "ended":
                assert isinstance(argument, bool)
                now = now.deployment_ended(now.deployment_id or deployment, succeeded=argument)
            elif isinstance(argument, Operation):
                now = now.order(argument, deployment)
            else:
                assert isinstance(argument, Status)
                now = now.go(argument, deployment)
        except Refused:
            assert now is before
        if now is not before:
            assert now.status in TRANSITIONS[before.status]
            assert now.version == before.version + 1


def test_the_end_of_another_deployment_changes_nothing() -> None:
    deploying = tenant(Status.DEPLOYING, uuid4())
    assert deploying.deployment_ended(uuid4(), succeeded=True) is deploying


def test_a_tenant_moves_from_the_shared_databases_and_back_to_them() -> None:
    active = tenant(Status.ACTIVE)
    for own in (Target.PROCESS, Target.CONTAINER):
        assert active.target(Operation.MOVE, own, None) is own
        assert active.target(Operation.MOVE, Target.POOLED, own) is Target.POOLED
    for wanted in (None, Target.PROCESS):
        with pytest.raises(Refused, match="at the target process: to move it, another one has to be named"):
            active.target(Operation.MOVE, wanted, Target.PROCESS)
    with pytest.raises(Refused, match="from process to container a tenant is moved by way of pooled"):
        active.target(Operation.MOVE, Target.CONTAINER, Target.PROCESS)
