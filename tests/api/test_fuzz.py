"""Row 17: schemathesis on the published OpenAPI document; no 5xx and no answer that the document does not have."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections, connection, transaction
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from rest_framework.response import Response
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from kasbah.identity.api.tenants import ProjectViewSet
from tests.api import world

CASES = int(os.environ.get("FUZZ_CASES", "1500"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@contextmanager
def one_connection() -> Iterator[None]:
    """Requests share the test's transaction, as django.test.Client does it (which connects these signals again)."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    try:
        yield
    finally:
        for signal in (request_started, request_finished):
            signal.connect(close_old_connections)


@pytest.fixture
def callers(db: None, as_user: Any, as_key: Any, root: Any, redis: Any) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What the platform's administrator, a tenant's, a key and nobody send to prove who asks; and ids that exist."""
    platform = world.make_platform()
    estate = world.make_estate(platform)
    key = world.make_keys(estate)["manage_key"]
    sessions = [root, as_user(estate.household.admin)]
    found = [
        {
            "headers": {"X-CSRFToken": client.cookies["csrftoken"].value},
            "cookies": {name: morsel.value for name, morsel in client.cookies.items()},
        }
        for client in sessions
    ]
    return [*found * 2, {"headers": {"Authorization": f"Bearer {key}"}}, {}], platform.ids | estate.ids | {
        "tenant": estate.slug,
        "request_id": estate.request_id,
    }


def parameters(path: str, ids: dict[str, str]) -> dict[str, str]:
    """Values that exist for the placeholders of a path, so that the fuzzer gets past the 404."""
    collection = path.split("/{id}/", maxsplit=1)[0].rsplit("/", maxsplit=1)[-1]
    known = {"tenant": ids["tenant"], "request_id": ids["request_id"], "id": ids.get(collection, ""), "name": "france"}
    return {name: value for name, value in known.items() if f"{{{name}}}" in path}


def references(ids: dict[str, str]) -> dict[str, Any]:
    """Fields of bodies that name other objects, with values that exist."""
    return {
        "project": ids["projects"],
        "site": ids["sites"],
        "sites": [ids["sites"]],
        "deployment": ids["deployments"],
        "model_version": ids["versions"],
        "broker_url": "redis://127.0.0.1:1/0",
        "jurisdiction": "FR",
        "address": "127.0.0.1:1",
        "ca_certificate": world.CERTIFICATE,
    }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_case_breaks_the_document(callers):
    proofs, ids = callers
    seen: Counter[int] = Counter()
    with one_connection():
        schema = schemathesis.openapi.from_wsgi("/api/schema/?format=json", get_wsgi_application())
        schema.config.generation.with_security_parameters = False  # who asks is said by `callers`
        operations = [result.ok() for result in schema.get_all_operations()]
        each = -(-CASES * 2 // (len(operations) * len(MODES)))  # some have few that differ
        for operation in operations:
            for mode in MODES:
                seen += _fuzz(operation, mode, each, proofs, ids)
    print(f"{seen.total()} cases over {len(operations)} operations: {dict(sorted(seen.items()))}")
    assert seen.total() >= CASES
    assert seen.keys() >= {200, 201, 400, 401, 403}  # it reached more than the door


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["breaks", "says what is not documented"])
def test_the_fuzzer_sees_a_fault(callers, monkeypatch, fault):
    """Negative control."""
    proofs, ids = callers

    def fail(self: Any, *args: Any, **kwargs: Any) -> Any:
        if fault == "breaks":
            raise RuntimeError
        return Response({"unexpected": True}, status=200)

    with one_connection():
        schema = schemathesis.openapi.from_wsgi("/api/schema/?format=json", get_wsgi_application())
        schema.config.generation.with_security_parameters = False
        operation = schema["/api/tenants/{tenant}/projects/{id}/"]["GET"]
        monkeypatch.setattr(ProjectViewSet, "retrieve", fail)  # after the document was made of the true one
        with pytest.raises(FailureGroup):
            _fuzz(operation, GenerationMode.POSITIVE, 5, proofs, ids)


def _fuzz(operation: Any, mode: Any, cases: int, proofs: Any, ids: dict[str, str]) -> Counter[int]:
    """How often each status was answered. Raises FailureGroup."""
    seen: Counter[int] = Counter()
    known = parameters(operation.path, ids)
    strategy = operation.as_strategy(generation_mode=mode, path_parameters=known or None)
    number = iter(range(10**9))

    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def run(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
            case.body |= {name: value for name, value in references(ids).items() if name in case.body}
        with transaction.atomic():
            response = case.call(**proofs[next(number) % len(proofs)])
            with connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what would fail at the end of the transaction
            transaction.set_rollback(True)
        seen[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    with suppress(Unsatisfiable):  # an operation without parameters or body has nothing that could be wrong
        run()
    return seen
