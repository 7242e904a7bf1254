"""The published OpenAPI document is valid, complete, and needs no other machine to be read."""

from __future__ import annotations

import re

import yaml
from django.core.management import call_command

from tests.api import world


def test_the_document_is_valid_and_nothing_was_guessed(tmp_path):
    path = tmp_path / "schema.yaml"
    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(path))
    assert path.read_text().startswith("openapi: 3.1")


def test_it_is_served_in_json_and_yaml(client):
    as_json = client.get("/api/schema/")
    as_yaml = client.get("/api/schema/?format=yaml")
    assert as_json.json() == yaml.safe_load(as_yaml.content)
    assert (as_json["content-type"], as_yaml["content-type"]) == ("application/json", "application/yaml")


def test_every_endpoint_is_in_it_with_its_errors(client):
    found = client.get("/api/schema/").json()
    documented = {
        (method.upper(), re.sub(r"\{\w+\}", "<>", path))
        for path, operations in found["paths"].items()
        for method in operations
    }
    served = {(endpoint.method, re.sub(r"<\w+>", "<>", endpoint.path)) for endpoint in world.endpoints()}
    pages = {("GET", path) for path in ("/", "/api/", "/api/docs/", "/api/schema/")}
    assert documented == served - pages
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            assert operation["description"].strip(), (method, path)
            assert set(operation["responses"]) >= {"400", "401", "403"}, (method, path)
            assert ("404" in operation["responses"]) >= ("{" in path), (method, path)
