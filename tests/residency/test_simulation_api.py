"""POST /api/tenants/<tenant>/policies/<id>/simulate/: in JSON and as a table, for those who may read the log."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from kasbah.identity.models import Role
from kasbah.residency.services import Question, compile_policy
from tests import factories
from tests.factories import Household

from .documents import SITES, allow, document
from .past import draft, remember

pytestmark = pytest.mark.django_db
OPEN = compile_policy(document(allow()))
FRANCE_ONLY = document(allow("france", jurisdictions=["FR"]))


@pytest.fixture
def home(db: None) -> Household:
    return factories.household()


@pytest.fixture
def as_user(db: None) -> Callable[[Any], APIClient]:
    def login(user: Any) -> APIClient:
        client = APIClient()
        client.force_login(user)
        return client

    return login


@pytest.fixture
def path(home: Household) -> str:
    """Of a draft; in the log are one request that would move and one that would be denied, of an hour ago."""
    for minutes, sites in ((61, SITES), (60, SITES[2:3])):
        question = Question(
            tenant=home.tenant.id, data_class="internal", model="=cmd", sites=sites, project=str(home.project.id)
        )
        remember(OPEN, question, timezone.now() - timedelta(minutes=minutes))
    return f"/api/tenants/{home.tenant.slug}/policies/{draft(home.tenant, FRANCE_ONLY).id}/simulate/"


def test_in_json(home: Household, path: str, as_user: Callable[[Any], APIClient]) -> None:
    answer = as_user(home.admin).post(path)
    assert answer.status_code == 200, answer.content
    found = answer.json()
    assert found["summary"] == (
        "would newly deny 1 request of the last 7 days and newly allow 0; 1 more would be allowed at other sites than "
        "they were"
    )
    assert found["counts"] == {
        "newly_denied": 1,
        "newly_allowed": 0,
        "moved": 1,
        "unchanged_allowed": 0,
        "unchanged_denied": 0,
        "not_comparable": 0,
    }
    assert (found["requests"], found["policy_version"], found["baseline_version"]) == (2, 1, None)
    assert {"site": "rabat", "lost": 2, "gained": 0} in found["sites"]
    assert {group["by"] for group in found["groups"]} == {"data_class", "model", "project", "rule"}
    assert len(found["examples"]["moved"]) == 1


@pytest.mark.parametrize("way", ["query", "header"])
def test_as_a_table_without_formulas(home: Household, path: str, as_user: Callable[[Any], APIClient], way: str) -> None:
    client = as_user(home.admin)
    answer = client.post(f"{path}?format=csv") if way == "query" else client.post(path, HTTP_ACCEPT="text/csv")
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
    assert [(row["kind"], row["before"], row["after"], row["lost"]) for row in rows] == [
        ("moved", "allowed", "allowed", "rabat tokyo"),
        ("newly_denied", "allowed", "denied", "rabat"),
    ]
    assert {row["model"] for row in rows} == {"'=cmd"}


def test_the_period_is_that_of_the_body(home: Household, path: str, as_user: Callable[[Any], APIClient]) -> None:
    client, now = as_user(home.admin), timezone.now()
    body = {"since": (now - timedelta(minutes=30)).isoformat()}
    assert client.post(path, body, format="json").json()["requests"] == 0
    for wrong in ({"since": now.isoformat(), "until": now.isoformat()}, {"from": "x"}, {"since": "yesterday"}):
        for table in ("", "?format=csv"):
            answer = client.post(path + table, wrong, format="json")
            assert (answer.status_code, answer["Content-Type"]) == (400, "application/json"), wrong
            assert answer.json()["error"]["param"] == next(iter(wrong))


def test_a_table_that_is_too_long_is_refused(
    home: Household, path: str, as_user: Callable[[Any], APIClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kasbah.residency.api.simulation.MOST_ROWS", 1)
    client = as_user(home.admin)
    answer = client.post(f"{path}?format=csv")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_changes")
    assert client.post(path).status_code == 200


def test_who_may(home: Household, path: str, as_user: Callable[[Any], APIClient]) -> None:
    """Whoever may read the tenant's audit log; a platform administrator is not one of them by his office."""
    expected = {Role.TENANT_ADMIN: 200, Role.AUDITOR: 200, Role.DEVELOPER: 403, Role.OPERATOR: 403}
    for role, status in expected.items():
        person = factories.user()
        factories.membership(home.tenant, person, role)
        assert as_user(person).post(path).status_code == status, role
    assert as_user(factories.user(is_platform_admin=True)).post(path).status_code == 403
    assert as_user(factories.household().admin).post(path).status_code == 404


def test_another_tenants_version_is_not_found(home: Household, path: str, as_user: Callable[[Any], APIClient]) -> None:
    foreign = draft(factories.tenant(), FRANCE_ONLY)
    answer = as_user(home.admin).post(f"/api/tenants/{home.tenant.slug}/policies/{foreign.id}/simulate/")
    assert answer.status_code == 404
