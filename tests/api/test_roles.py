"""Who may do what, for every method of every path: a new endpoint must be classified here, or this fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import transaction

from kasbah.identity.services import Permission
from tests.api import world
from tests.api.permissions import ALLOWED, EVERYBODY
from tests.audit.logs import sequence_uncommitted

THROUGH = {200, 201, 204, 302, 400, 409}  # 400 and 409: it got past the permission, and the body is empty


def test_every_endpoint_is_classified():
    assert {str(endpoint) for endpoint in world.endpoints()} == set(ALLOWED)


def test_every_declared_permission_exists_and_every_action_declares_one():
    known = {permission.value for permission in Permission} | {"authenticated", "public"}
    for endpoint in world.endpoints():
        view = getattr(endpoint.view, "cls", None)
        if view is None or not hasattr(view, "access"):
            assert endpoint.path in ("/", "/api/", "/api/docs/", "/api/schema/")
            continue
        actions = getattr(endpoint.view, "actions", {})
        action = actions.get(endpoint.method.lower(), endpoint.method.lower())
        assert view.access.get(action) in known, endpoint
        assert set(view.access) >= set(actions.values()) - {"head"}, endpoint


@pytest.fixture
def clients(db: None, as_user: Callable[..., Any], as_key: Callable[..., Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """A client for each kind of caller, and the values of every placeholder."""
    from rest_framework.test import APIClient

    platform = world.make_platform()
    estate = world.make_estate(platform)
    people = world.make_people(estate)
    clients = {name: as_user(person) for name, person in people.items()}
    clients |= {name: as_key(text) for name, text in world.make_keys(estate).items()}
    clients["anonymous"] = APIClient()
    elsewhere = world.factories.household().tenant
    invited = {
        f"invitation of {name}": str(world.invite(world.factories.SYSTEM, elsewhere, person.email, "developer").id)
        for name, person in people.items()
    }
    ids = platform.ids | estate.ids | invited
    return clients, ids | {"tenant": estate.slug, "request_id": estate.request_id, "name": "france"}


def test_the_matrix(clients, monkeypatch):
    callers, values = clients
    assert set(callers) == EVERYBODY
    sequence_uncommitted(monkeypatch)
    wrong = []
    # Logging out comes last: the clients forget their cookies.
    for endpoint in sorted(world.endpoints(), key=lambda endpoint: str(endpoint) == "DELETE /api/session/"):
        pk = values.get(endpoint.collection, "") if "<pk>" in endpoint.path else ""
        if endpoint.path.startswith("/api/audit-events/<pk>/"):
            pk = world.factories.events_of(None)[0]["id"]
        for name, client in callers.items():
            if endpoint.path.startswith("/api/me/invitations/<pk>/"):  # each may accept his own alone
                pk = values.get(f"invitation of {name}", pk)
            url = endpoint.url(tenant=values["tenant"], request_id=values["request_id"], name=values["name"], pk=pk)
            with transaction.atomic():
                answer = client.generic(endpoint.method, url, b"{}", content_type="application/json")
                transaction.set_rollback(True)
            expected = _expected(endpoint, name)
            if answer.status_code not in expected:
                wrong.append(f"{endpoint} as {name}: {answer.status_code}, not in {sorted(expected)}")
    assert not wrong, "\n".join(wrong)


def _expected(endpoint: world.Endpoint, name: str) -> set[int]:
    if name in ALLOWED[str(endpoint)]:
        return THROUGH
    if name == "anonymous":
        return {401}
    if name == "stranger" and ("<tenant>" in endpoint.path or "<request_id>" in endpoint.path):
        return {404}
    if name == "stranger" and str(endpoint) == "GET /api/deployments/<pk>/":
        return {404}  # not granted to his tenant
    return {403}
