"""The services' OpenAPI documents as one, and the pages that show it."""

import importlib
import re
from collections.abc import Iterator
from typing import Any, cast

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from chassis.http.app import create_app
from chassis.service import Service
from deploy.roles import SERVICES
from gateway.documentation import merge, pages
from gateway.routes import PUBLIC


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """What the gateway serves, made from the services' own routes."""
    documents = {}
    for name in SERVICES:
        microservice = importlib.import_module(f"services.{name}.app").MICROSERVICE
        documents[name] = create_app(microservice, cast(Service, None), {}).openapi()
    return merge(documents)


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for verb, operation in item.items():
            yield path, verb, operation


def test_it_is_valid_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    OpenAPIV31SpecValidator(document).validate()


def test_every_operation_says_what_it_is(document: dict[str, Any]) -> None:
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(names) == len(set(names)) > 40
    for path, verb, operation in operations(document):
        assert operation["summary"], (verb, path)
        assert operation["tags"], (verb, path)
        expected = [] if path in PUBLIC else [{"HTTPBearer": []}]
        assert operation["security"] == expected, (verb, path)
        # What a client must expect to go wrong, whether named by class or one by one.
        for wrong in ("4", "5"):
            answers = [
                document["components"]["responses"][answer["$ref"].rpartition("/")[2]] if "$ref" in answer else answer
                for status, answer in operation["responses"].items()
                if status.startswith(wrong)
            ]
            assert answers, (verb, path)
            assert all("application/problem+json" in answer["content"] for answer in answers), (verb, path)


def schema(**properties: str) -> dict[str, Any]:
    references = {name: {"$ref": f"#/components/schemas/{target}"} for name, target in properties.items()}
    return {"type": "object", "properties": references}


def service(name: str, answer: str, **schemas: dict[str, Any]) -> dict[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{answer}"}}}
    operation = {"operationId": name, "responses": {"200": {"description": "", "content": content}}}
    return {"paths": {f"/{name}": {"get": operation}}, "components": {"schemas": schemas}}


def test_a_name_that_means_two_things_becomes_two_names() -> None:
    money, text, number = schema(), {"type": "string"}, {"type": "integer"}
    merged = merge(
        {
            "one": service("a", "Page", Page=schema(item="Item"), Item=text, Money=money),
            "two": service("b", "Page", Page=schema(item="Item"), Item=number, Money=money),
        }
    )
    schemas = merged["components"]["schemas"]
    # Page reads the same in both, but what it refers to does not.
    assert schemas.keys() == {"Page", "Item", "Money", "TwoPage", "TwoItem"}
    assert schemas["TwoPage"] == schema(item="TwoItem")
    assert (schemas["Item"], schemas["TwoItem"]) == (text, number)
    answer = merged["paths"]["/b"]["get"]["responses"]["200"]["content"]["application/json"]
    assert answer["schema"] == {"$ref": "#/components/schemas/TwoPage"}


def test_an_operation_of_two_services_is_an_error() -> None:
    with pytest.raises(ValueError, match="two services have the operation a"):
        merge({"one": service("a", "X", X={}), "two": service("a", "X", X={})})


def test_the_pages_need_nothing_from_elsewhere() -> None:
    made = pages()
    for path in ("/docs", "/docs/events"):
        html = made[path]._body.decode()
        places = re.findall(r'(?:src|href)="([^"]+)"', html)
        assert places
        assert all(place in made for place in places), places
        assert "<script>" not in html  # the policy forbids what is inline
        policy = made[path]._headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    for path, content in made.items():
        if path.startswith("/docs/assets/"):
            assert content.digest in path
            assert "immutable" in content._headers["Cache-Control"]
