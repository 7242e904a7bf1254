"""Row 12: a foreign object's id is answered with the same bytes as one that does not exist, on every endpoint."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
from django.db import transaction

from kasbah.common import rls
from kasbah.common.api import ManagementMixin, ManagementViewSet
from tests import factories
from tests.api import world
from tests.api.permissions import ALLOWED

DETAIL = [e for e in world.endpoints() if "<tenant>" in e.path and "<pk>" in e.path]
OF_A_TENANT = [e for e in world.endpoints() if "<tenant>" in e.path]
OUR_OWN = ("x-request-id", "date")


def ask(client: Any, endpoint: world.Endpoint, url: str) -> tuple[int, bytes, dict[str, str]]:
    """Everything that the client learns. Nothing that the request did is kept."""
    with transaction.atomic():
        answer = client.generic(endpoint.method, url, b"{}", content_type="application/json")
        transaction.set_rollback(True)
    headers = {name: value for name, value in answer.headers.items() if name.lower() not in OUR_OWN}
    return answer.status_code, answer.content, headers


@pytest.fixture
def two(db: None) -> tuple[world.Estate, world.Estate]:
    """Two tenants with one of everything."""
    platform = world.make_platform()
    return world.make_estate(platform), world.make_estate(platform)


def differences(client: Any, ours: world.Estate, theirs: world.Estate, who: str = "tenant_admin") -> list[str]:
    """Endpoints where a foreign id is answered otherwise than an id that nothing has, of those that `who` may use."""
    found = []
    for endpoint in (e for e in DETAIL if who in ALLOWED[str(e)]):
        foreign = ask(client, endpoint, endpoint.url(tenant=ours.slug, pk=theirs.ids[endpoint.collection]))
        nothing = ask(client, endpoint, endpoint.url(tenant=ours.slug, pk=world.random_id()))
        if foreign != nothing or foreign[0] != 404:
            found.append(f"{endpoint}: {foreign} instead of {nothing}")
    return found


def test_there_is_something_to_walk():
    collections = {"projects", "members", "api-keys", "policies", "grants", "limits", "usage", "jobs"}
    collections |= {"audit-events", "legal-holds", "erasures", "pruning-policies", "invitations"}
    assert {endpoint.collection for endpoint in DETAIL} == collections
    assert len(DETAIL) >= 16


def test_own_objects_are_found(as_user, two):
    ours, _ = two
    client = as_user(ours.household.admin)
    for endpoint in DETAIL:
        if endpoint.path.endswith("/proof/"):
            answer = client.get(endpoint.url(tenant=ours.slug, pk=ours.ids[endpoint.collection]))
            assert (answer.status_code, "no place in the log yet" in answer.json()["error"]["message"]) == (503, True)
        elif endpoint.method == "GET":
            answer = client.get(endpoint.url(tenant=ours.slug, pk=ours.ids[endpoint.collection]))
            assert answer.status_code == 200, (endpoint, answer.content)
            if not endpoint.path.endswith("/changes/"):  # what others did to it, not the object itself
                assert answer.json()["id"] == ours.ids[endpoint.collection]


CALLERS = ("tenant_admin", "platform_admin", "manage_key")


@pytest.mark.parametrize("who", CALLERS)
def test_a_foreign_id_is_like_one_that_does_not_exist(as_user, as_key, root, two, who):
    ours, theirs = two
    if who == "manage_key":
        client = as_key(world.make_keys(ours)[who])
    else:
        client = root if who == "platform_admin" else as_user(ours.household.admin)
    found = differences(client, ours, theirs, who)
    assert not found, "\n".join(found)


def test_every_endpoint_is_walked_by_somebody_who_may_use_it():
    assert all(ALLOWED[str(endpoint)] & set(CALLERS) for endpoint in DETAIL)


def test_a_foreign_tenant_is_like_one_that_does_not_exist(as_user, two):
    ours, theirs = two
    client = as_user(ours.household.admin)
    for endpoint in OF_A_TENANT:
        pk = theirs.ids[endpoint.collection] if "<pk>" in endpoint.path else ""
        names = {"pk": pk, "request_id": theirs.request_id}
        foreign = ask(client, endpoint, endpoint.url(tenant=theirs.slug, **names))
        nothing = ask(client, endpoint, endpoint.url(tenant=factories.slug("nobody"), **names))
        assert foreign == nothing, endpoint
        assert foreign[0] == 404, endpoint


def test_a_foreign_receipt_is_like_one_that_does_not_exist(as_user, as_key, two):
    ours, theirs = two
    endpoint = next(e for e in world.endpoints() if "<request_id>" in e.path)
    for client in (as_user(ours.household.admin), as_key(ours.household.key_text)):
        assert client.get(endpoint.url(request_id=ours.request_id)).status_code == 200
        foreign = ask(client, endpoint, endpoint.url(request_id=theirs.request_id))
        nothing = ask(client, endpoint, endpoint.url(request_id="req_nothing"))
        assert foreign == nothing
        assert foreign[0] == 404


def test_a_foreign_id_in_a_body_or_a_filter_is_like_one_that_does_not_exist(as_user, two):
    ours, theirs = two
    client = as_user(ours.household.admin)
    base = f"/api/tenants/{ours.slug}"

    def answers(ident: str) -> list[tuple[int, bytes]]:
        found = [
            client.post(f"{base}/api-keys/", {"project": ident, "name": "x"}),
            client.post(f"{base}/limits/", {"scope": "project", "subject_id": ident, "requests_per_minute": 1}),
            client.post(f"{base}/limits/", {"scope": "api_key", "subject_id": ident, "requests_per_minute": 1}),
            client.post(f"{base}/limits/", {"scope": "tenant", "subject_id": ident, "requests_per_minute": 1}),
            client.get(f"{base}/jobs/?project={ident}"),
            client.get(f"{base}/usage/?api_key={ident}"),
            client.get(f"{base}/usage/summary/?project={ident}"),
            client.get(f"{base}/jobs/?after={ident}&order=asc&limit=1&model=none"),
        ]
        return [(answer.status_code, answer.content) for answer in found]

    foreign = answers(theirs.ids["projects"])
    assert foreign == answers(world.random_id())
    # 403: the limit of a whole tenant is the platform's, whichever is named
    assert all(status in (200, 400, 403, 404) for status, _ in foreign)
    assert [status for status, _ in foreign].count(403) == 1
    tenant = answers(str(theirs.household.tenant.id))
    assert tenant == foreign


def test_lists_and_sums_hold_the_own_objects_only(as_user, two):
    ours, theirs = two
    client = as_user(ours.household.admin)
    for name, ident in ours.ids.items():
        listed = [item["id"] for item in client.get(f"/api/tenants/{ours.slug}/{name}/?limit=200").json()["data"]]
        assert ident in listed, name
        assert theirs.ids[name] not in listed, name
    sums = client.get(f"/api/tenants/{ours.slug}/usage/summary/?by=project").json()["groups"]
    assert [line["group"] for line in sums] == [ours.ids["projects"]]


class TestNegativeControls:
    """The walk sees a leak when both guards are off, and each guard holds alone."""

    @pytest.fixture
    def no_scope(self, monkeypatch):
        """Row-level security off for the handlers: they run as the platform."""

        @contextmanager
        def platform(self: Any) -> Any:
            with rls.platform_scope():
                yield

        monkeypatch.setattr(ManagementMixin, "scope", platform)

    @pytest.fixture
    def no_narrowing(self, monkeypatch):
        """The narrowing by hand off."""
        monkeypatch.setattr(ManagementViewSet, "rows", lambda self: self.get_queryset())

    def test_without_both_every_collection_leaks(self, as_user, two, no_scope, no_narrowing):
        found = differences(as_user(two[0].household.admin), *two)
        leaking = {endpoint.collection for endpoint in DETAIL if any(line.startswith(f"{endpoint}:") for line in found)}
        assert leaking == set(two[0].ids)

    def test_row_level_security_holds_alone(self, as_user, two, no_narrowing):
        assert not differences(as_user(two[0].household.admin), *two)

    def test_narrowing_holds_alone(self, as_user, two, no_scope):
        assert not differences(as_user(two[0].household.admin), *two)
