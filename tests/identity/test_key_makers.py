"""A key is its maker at most, what he may now; service accounts are named; whoever goes leaves no key unasked for."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError, transaction
from rest_framework.test import APIClient

from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden
from kasbah.identity import services
from kasbah.identity.models import ApiKey, Membership, Role, User
from kasbah.identity.services import KeyChoice, permissions
from tests import factories
from tests.factories import SYSTEM, fresh

pytestmark = pytest.mark.django_db
MANAGES = {"scopes": ("management",), "role": Role.TENANT_ADMIN}


@pytest.fixture
def home() -> factories.Household:
    return factories.household()


@pytest.fixture
def second(home: factories.Household) -> User:
    """Another administrator."""
    made = factories.user()
    factories.membership(home.tenant, made)
    return made


def with_key(text: str) -> APIClient:
    made = APIClient()
    made.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
    return made


def invites(home: factories.Household, text: str) -> int:
    body = {"email": f"{factories.slug('u')}@example.org", "role": "developer"}
    return int(with_key(text).post(f"/api/tenants/{home.tenant.slug}/members/", body).status_code)


def member(home: factories.Household, who: User) -> Membership:
    with rls.tenant_scope(home.tenant.id):
        return Membership.objects.get(user=who)


def demote(home: factories.Household, who: User) -> None:
    services.change_role(SYSTEM, member(home, who), Role.DEVELOPER)


def switch_off(home: factories.Household, who: User) -> None:
    services.update_user(SYSTEM, who, is_active=False, keys=KeyChoice.KEEP)


def remove(home: factories.Household, who: User) -> None:
    services.remove_member(SYSTEM, member(home, who), KeyChoice.KEEP)


@pytest.mark.parametrize("goes", [demote, switch_off, remove])
def test_a_management_key_goes_down_with_its_maker(
    home: factories.Household, second: User, goes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = factories.api_key(home.project, made_by=second, **MANAGES)
    _, service = factories.api_key(home.project, **MANAGES)
    assert invites(home, text) == 202
    goes(home, second)
    assert invites(home, text) == 403
    assert invites(home, service) == 202
    projects = with_key(text).get(f"/api/tenants/{home.tenant.slug}/projects/").status_code
    assert projects == (200 if goes is demote else 403)  # what a developer may, his key may
    monkeypatch.setattr(permissions, "_allowed_to_person", lambda *_: frozenset(services.Permission))
    assert invites(home, text) == 202  # the control: without the cap it goes on


def test_the_key_of_a_platform_administrator_goes_down_with_him_too(home: factories.Household) -> None:
    root = factories.user(is_platform_admin=True)
    _, text = factories.api_key(home.project, made_by=root, **MANAGES)
    assert invites(home, text) == 202
    services.update_user(SYSTEM, factories.user(is_platform_admin=True), name="another one stays")
    services.update_user(SYSTEM, root, is_platform_admin=False)
    assert invites(home, text) == 403


def test_a_key_that_such_a_key_made_is_capped_by_the_same_person(home: factories.Household, second: User) -> None:
    _, text = factories.api_key(home.project, made_by=second, **MANAGES)
    body = {"project": str(home.project.id), "name": "child", "scopes": ["management"], "role": "tenant_admin"}
    child = with_key(text).post(f"/api/tenants/{home.tenant.slug}/api-keys/", body).json()
    assert (child["created_by"], child["service_account"]) == (str(second.id), False)
    assert invites(home, child["key"]) == 202
    demote(home, second)
    assert invites(home, child["key"]) == 403


def test_a_service_account_is_named_as_such_and_takes_who_manages_members(home: factories.Household) -> None:
    developer = factories.user()
    factories.membership(home.tenant, developer, Role.DEVELOPER)
    with pytest.raises(Forbidden):
        services.create_api_key(fresh(developer), home.tenant, home.project, "x", service_account=True)
    made = services.create_api_key(fresh(home.admin), home.tenant, home.project, "backup", service_account=True)
    assert (made.key.service_account, made.key.created_by_id) == (True, home.admin.id)
    assert factories.events_of(home.tenant.id)[-1]["details"]["service_account"] is True
    by_command = services.create_api_key(SYSTEM, home.tenant, home.project, "x")
    assert by_command.key.service_account
    with pytest.raises(IntegrityError, match="has_a_maker"), transaction.atomic(), rls.platform_scope():
        ApiKey.objects.filter(pk=by_command.key.pk).update(service_account=False)


class TestWhoGoes:
    """Switching a person off, or removing a member, asks what becomes of the keys that he made."""

    def test_the_keys_are_listed_and_asked_about(self, home: factories.Household, second: User) -> None:
        key, _ = factories.api_key(home.project, made_by=second)
        root = APIClient()
        root.force_login(factories.user(is_platform_admin=True))
        place = f"/api/users/{second.id}/"
        answer = root.patch(place, {"is_active": False}, format="json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "keys_remain")
        assert f"{key.prefix}... ({home.tenant.slug})" in answer.json()["error"]["message"]
        assert [row["id"] for row in root.get(f"{place}keys/").json()] == [str(key.id)]
        second.refresh_from_db()
        assert second.is_active
        assert root.patch(place, {"is_active": True, "keys": "keep"}, format="json").status_code == 400
        assert root.patch(place, {"is_active": False, "keys": "perhaps"}, format="json").status_code == 400
        assert root.patch(place, {"is_active": False, "keys": "revoke"}, format="json").status_code == 200
        with rls.platform_scope():
            key.refresh_from_db()
        assert key.revoked_at is not None
        assert factories.events_of(home.tenant.id)[-1]["type"] == "key.revoked"

    def test_keys_that_stay_go_on_for_their_applications(self, home: factories.Household, second: User) -> None:
        _, text = factories.api_key(home.project, made_by=second)
        switch_off(home, second)
        assert services.authenticate_key(text).scopes == {"inference"}

    def test_a_member_who_is_removed_leaves_those_of_this_tenant(self, home: factories.Household, second: User) -> None:
        other = factories.household()
        here, _ = factories.api_key(home.project, made_by=second)
        there, _ = factories.api_key(other.project, made_by=second)
        client = APIClient()
        client.force_login(home.admin)
        place = f"/api/tenants/{home.tenant.slug}/members/{member(home, second).id}/"
        answer = client.delete(place)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "keys_remain")
        assert other.tenant.slug not in answer.json()["error"]["message"]
        assert client.delete(f"{place}?keys=revoke").status_code == 204
        for key, revoked in ((here, True), (there, False)):
            with rls.platform_scope():
                key.refresh_from_db()
            assert (key.revoked_at is not None) is revoked

    def test_what_is_no_longer_good_is_not_asked_about(self, home: factories.Household, second: User) -> None:
        key, _ = factories.api_key(home.project, made_by=second)
        services.revoke_api_key(SYSTEM, key)
        assert not services.update_user(SYSTEM, second, is_active=False).is_active

    def test_a_long_list_is_cut(self, home: factories.Household, second: User) -> None:
        for _ in range(22):
            factories.api_key(home.project, made_by=second)
        with pytest.raises(Conflict, match=r"22 API keys .* and 2 more"):
            services.update_user(SYSTEM, second, is_active=False)
