"""The overlays, rendered."""

import pytest

from deploy.kubernetes import manifests
from tests.unit.deploy.kubernetes.rendered import Resource


@pytest.fixture(scope="module", params=manifests.OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def resources(overlay: str) -> list[Resource]:
    return _render(overlay)


@pytest.fixture(scope="module")
def production() -> list[Resource]:
    return _render("production")


def _render(overlay: str) -> list[Resource]:
    command = manifests.renderer()
    if command is None:
        pytest.skip("there is no kustomize, and no kubectl 1.27 or newer, to render the manifests with")
    return manifests.render(overlay, command)
