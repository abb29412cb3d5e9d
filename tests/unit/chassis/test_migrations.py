import pytest

from chassis.persistence.migrations import versions_of
from deploy.roles import SERVICES


@pytest.mark.parametrize("service", SERVICES)
def test_a_services_migrations_are_one_line_in_the_order_of_their_names(service: str) -> None:
    script = versions_of(service)
    assert len(script.get_heads()) == 1
    revisions = [revision.revision for revision in script.walk_revisions()]
    assert revisions == sorted(revisions, reverse=True)
    assert [revision.module.__name__[:4] for revision in script.walk_revisions()] == revisions
