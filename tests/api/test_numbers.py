"""Numbers in query strings and bodies of the management API, and parameters that come twice."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from rest_framework import serializers

from kasbah.common import queries
from kasbah.identity.models import Role
from tests import factories

pytestmark = pytest.mark.django_db

PARAMETERS = [
    ("projects/", "limit"),
    ("audit-log/consistency/", "from"),
    ("policies/", "version"),
    ("audit-log/export/", "since_size"),
]
STRANGE = ["9" * 5000, "0000000009999999", "1_0", "+5", "\u0665", "-1", "1.0", "5\0", "x"]


@pytest.fixture
def reader(home: Any, as_user: Any) -> Any:
    """Who may read all of the tenant: its log, its policies, its projects."""
    who = factories.user()
    factories.membership(home.tenant, who, Role.AUDITOR)
    return as_user(who)


@pytest.mark.parametrize("text", STRANGE, ids=lambda text: text[:8].encode("unicode_escape").decode())
@pytest.mark.parametrize(("path", "name"), PARAMETERS)
def test_a_parameter_that_is_no_bounded_number_is_named(
    reader: Any, home: Any, path: str, name: str, text: str
) -> None:
    besides = "&to=5" if name == "from" else ""
    answer = reader.get(f"/api/tenants/{home.tenant.slug}/{path}?{name}={quote(text)}{besides}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)
    assert len(answer.content) < 400


@pytest.mark.parametrize("path", ["projects/?limit=1&limit=2", "jobs/?state=failed&state=queued"])
def test_a_parameter_that_comes_twice_is_named(root: Any, home: Any, path: str) -> None:
    answer = root.get(f"/api/tenants/{home.tenant.slug}/{path}")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, path.partition("?")[2].partition("=")[0])


def test_the_usual_field_would_take_what_the_parser_refuses(
    root: Any, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: Django REST framework's own field reads `1_0` as ten."""
    monkeypatch.setattr(queries.NumberField, "to_internal_value", serializers.IntegerField.to_internal_value)
    assert root.get(f"/api/tenants/{home.tenant.slug}/projects/?limit=1_0").status_code == 200


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 30, "1e400", "-1e999"])
def test_a_number_of_a_body_that_nothing_holds_is_named(root: Any, home: Any, number: str) -> None:
    path = f"/api/tenants/{home.tenant.slug}/policies/"
    body = f'{{"document": {{"version": 1, "rules": [{{"id": {number}}}]}}}}'
    answer = root.post(path, data=body, content_type="application/json")
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "document.rules[0].id")
    assert len(error["message"]) < 100
