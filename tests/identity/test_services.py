"""Tenants, members, users and keys: what is allowed, what is refused, and that each change is on record."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, Invalid, KasbahError, NotFound, Unauthenticated
from kasbah.identity import services
from kasbah.identity.models import ApiKey, Membership, Role, Scope, User
from kasbah.identity.services import Permission, actor_of_key, actor_of_user
from tests import factories
from tests.factories import SYSTEM

pytestmark = pytest.mark.django_db
PASSWORD = "correct horse battery staple"


def types(tenant_id: Any) -> list[str]:
    return [str(event["type"]) for event in factories.events_of(tenant_id)]


def test_each_verb_records_its_event() -> None:
    tenant = services.create_tenant(SYSTEM, "acme", "Acme")
    project = services.create_project(SYSTEM, tenant, "search", "Search", "internal")
    user = services.create_user(SYSTEM, "Ada@Example.org", PASSWORD, "Lovelace")
    other = services.create_user(SYSTEM, "bob@example.org", PASSWORD)
    member = services.add_member(SYSTEM, tenant, user, Role.TENANT_ADMIN)
    second = services.add_member(SYSTEM, tenant, other, Role.TENANT_ADMIN)
    services.change_role(SYSTEM, second, Role.DEVELOPER)
    services.remove_member(SYSTEM, second)
    issued = services.create_api_key(SYSTEM, tenant, project, "app")
    services.revoke_api_key(SYSTEM, issued.key)
    services.update_project(SYSTEM, project, default_data_class="secret")
    services.update_tenant(SYSTEM, tenant, active=False, default_data_class="confidential")
    assert factories.events_of(tenant.id)[-1]["details"] == {
        "fields": ["active", "default_data_class"],
        "active": False,
        "default_data_class": "confidential",
    }
    assert types(tenant.id) == [
        "tenant.created", "project.created", "membership.added", "membership.added", "membership.role_changed",
        "membership.removed", "key.created", "key.revoked", "project.changed", "tenant.changed",
    ]  # fmt: skip
    assert user.email == "ada@example.org"
    assert member.role == Role.TENANT_ADMIN
    events = {event["resource"]["id"]: event for event in factories.events_of(None) if "resource" in event}  # type: ignore[index]
    created = events[str(user.id)]
    assert created["type"] == "user.created"
    assert "lovelace" not in str(created).lower()  # no name
    assert "example" not in str(created).lower()  # no address
    assert issued.text not in str(factories.events_of(tenant.id))


def test_a_change_that_is_rolled_back_leaves_no_event() -> None:
    tenant = factories.tenant()

    def fail_after_creating() -> None:
        with rls.platform_scope():
            services.create_project(SYSTEM, tenant, "gone", "Gone")
            assert types(tenant.id) == ["project.created"]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_creating()
    assert types(tenant.id) == []
    with rls.tenant_scope(tenant.id):
        assert not tenant.projects.exists()


@pytest.mark.parametrize(
    ("slug", "name", "param"), [("Not A Slug", "x", "slug"), ("", "x", "slug"), ("fine", "", "name")]
)
def test_bad_input_names_its_field(slug: str, name: str, param: str) -> None:
    with pytest.raises(Invalid) as caught:
        services.create_tenant(SYSTEM, slug, name)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("of_key", "of_project", "of_tenant", "expected"),
    [
        ("public", "secret", "internal", "public"),
        ("", "secret", "internal", "secret"),
        ("", "", "internal", "internal"),
        ("", "", "", ""),
    ],
)
def test_the_nearest_default_data_class_holds(of_key: str, of_project: str, of_tenant: str, expected: str) -> None:
    tenant = services.create_tenant(SYSTEM, factories.slug("tenant"), "T", of_tenant)
    project = services.create_project(SYSTEM, tenant, "p", "P", of_project)
    issued = services.create_api_key(SYSTEM, tenant, project, "k", default_data_class=of_key)
    assert services.authenticate_key(issued.text).data_class == expected


def test_a_tenant_has_no_class_that_nobody_knows() -> None:
    with pytest.raises(Invalid) as caught:
        services.create_tenant(SYSTEM, "acme", "Acme", "top-secret")
    assert caught.value.param == "default_data_class"


def test_a_taken_name_is_a_conflict_and_changes_nothing() -> None:
    services.create_tenant(SYSTEM, "acme", "Acme")
    with pytest.raises(Conflict, match="acme"):
        services.create_tenant(SYSTEM, "acme", "Other")
    tenant = services.find_tenant("acme")
    assert tenant.name == "Acme"
    assert types(tenant.id) == ["tenant.created"]


ALLOWED = {
    Role.TENANT_ADMIN: {
        Permission.KEY_MANAGE,
        Permission.MEMBER_MANAGE,
        Permission.AUDIT_READ,
        Permission.POLICY_MANAGE,
    },
    Role.DEVELOPER: {Permission.KEY_MANAGE},
    Role.OPERATOR: set(),
    Role.AUDITOR: {Permission.AUDIT_READ},
}


@pytest.mark.parametrize("role", Role.values)
def test_roles_may_what_they_may_and_no_more(role: str) -> None:
    tenant, person = factories.tenant(), factories.user()
    factories.membership(tenant, person, role)
    actor = actor_of_user(person)
    for permission in (
        Permission.KEY_MANAGE, Permission.MEMBER_MANAGE, Permission.AUDIT_READ, Permission.POLICY_MANAGE,
        Permission.TENANT_MANAGE, Permission.DEPLOYMENT_MANAGE,
    ):  # fmt: skip
        if permission in ALLOWED[Role(role)]:
            services.require(actor, permission, tenant)
        else:
            with pytest.raises(Forbidden):
                services.require(actor, permission, tenant)
    services.require(actor, Permission.TENANT_READ, tenant)
    for manage in (p for p in Permission if p.value.endswith(".manage")):
        with pytest.raises(Forbidden):
            services.require(actor, manage, None)


def test_an_auditor_changes_nothing() -> None:
    assert not [p for p in services.ROLES[Role.AUDITOR] if not p.value.endswith(".read")]


def test_another_tenant_does_not_exist() -> None:
    mine, theirs = factories.household(), factories.household()
    for actor in (actor_of_user(mine.admin), actor_of_key(mine.principal)):
        services.require(actor, Permission.TENANT_READ, mine.tenant)
        with pytest.raises(NotFound):
            services.require(actor, Permission.TENANT_READ, theirs.tenant)
        assert list(services.visible_tenants(actor)) == [mine.tenant]
    with pytest.raises(NotFound):
        services.create_api_key(SYSTEM, mine.tenant, theirs.project, "stolen")


def test_a_platform_administrator_manages_but_does_not_read_a_tenants_log() -> None:
    tenant, admin = factories.tenant(), factories.user(is_platform_admin=True)
    actor = actor_of_user(admin)
    services.require(actor, Permission.TENANT_MANAGE, tenant)
    with pytest.raises(Forbidden):
        services.require(actor, Permission.AUDIT_READ, tenant)
    with pytest.raises(Forbidden, match="own membership"):
        services.add_member(actor, tenant, admin, Role.AUDITOR)


def test_nobody_hands_out_more_than_he_has() -> None:
    home, developer = factories.household(), factories.user()
    factories.membership(home.tenant, developer, Role.DEVELOPER)
    actor = actor_of_user(developer)
    services.create_api_key(actor, home.tenant, home.project, "mine")
    with pytest.raises(Forbidden):
        services.create_api_key(actor, home.tenant, home.project, "more", role=Role.TENANT_ADMIN)
    with pytest.raises(Forbidden):
        services.create_api_key(actor, home.tenant, home.project, "more", role=Role.AUDITOR)


def test_the_last_administrator_stays() -> None:
    home, other = factories.household(), factories.user()
    with rls.tenant_scope(home.tenant.id):
        last = Membership.objects.get(user=home.admin)
    with pytest.raises(Conflict):
        services.remove_member(SYSTEM, last)
    with pytest.raises(Conflict):
        services.change_role(SYSTEM, last, Role.DEVELOPER)
    services.add_member(SYSTEM, home.tenant, other, Role.TENANT_ADMIN)
    services.remove_member(SYSTEM, last)
    assert services.memberships(actor_of_user(home.admin)) == []


@pytest.mark.django_db(transaction=True)
def test_two_administrators_cannot_remove_each_other_at_once() -> None:
    for _ in range(5):
        tenant, people = factories.tenant(), [factories.user(), factories.user()]
        members = [factories.membership(tenant, person) for person in people]
        errors: list[KasbahError] = []
        barrier = threading.Barrier(2)

        def remove(
            by: User, whom: Membership, barrier: threading.Barrier = barrier, errors: list[KasbahError] = errors
        ) -> None:
            barrier.wait()
            try:
                services.remove_member(actor_of_user(by), whom)
            except KasbahError as error:
                errors.append(error)
            finally:
                connection.close()

        threads = [threading.Thread(target=remove, args=(people[i], members[1 - i])) for i in (0, 1)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        with rls.tenant_scope(tenant.id):
            assert Membership.objects.filter(role=Role.TENANT_ADMIN).count() == 1
        assert len(errors) == 1


def test_the_last_platform_administrator_stays() -> None:
    first = services.create_user(SYSTEM, "root@example.org", PASSWORD, is_platform_admin=True)
    for change in ({"is_active": False}, {"is_platform_admin": False}):
        with pytest.raises(Conflict):
            services.update_user(SYSTEM, User.objects.get(id=first.id), **change)
    services.create_user(SYSTEM, "root2@example.org", PASSWORD, is_platform_admin=True)
    services.update_user(SYSTEM, first, is_active=False)


def test_weak_passwords_are_refused() -> None:
    with pytest.raises(Invalid) as caught:
        services.create_user(SYSTEM, "ada@example.org", "short")
    assert caught.value.param == "password"


def test_logging_in_is_recorded_either_way(caplog: pytest.LogCaptureFixture) -> None:
    user = services.create_user(SYSTEM, "ada@example.org", PASSWORD)
    assert services.log_in("ADA@example.org", PASSWORD) == user
    reasons = set()
    for email, password in (("ada@example.org", "wrong"), ("nobody@example.org", PASSWORD)):
        with pytest.raises(Unauthenticated) as caught:
            services.log_in(email, password)
        reasons.add(caught.value.message)
    assert len(reasons) == 1
    assert PASSWORD not in caplog.text
    system_events = [(event["type"], event["outcome"]) for event in factories.events_of(None)]
    assert system_events.count(("authentication.login_succeeded", "success")) == 1
    assert system_events.count(("authentication.login_failed", "denied")) >= 2


def test_a_key_is_refused_for_each_reason() -> None:
    home = factories.household()
    assert services.authenticate_key(home.key_text) == home.principal
    with rls.tenant_scope(home.tenant.id):
        assert ApiKey.objects.get(id=home.key.id).last_used_at is not None
    with pytest.raises(Unauthenticated, match="not known"):
        services.authenticate_key(services.principals.keys.generate())
    services.update_tenant(SYSTEM, home.tenant, active=False)
    with pytest.raises(Unauthenticated, match="switched off"):
        services.authenticate_key(home.key_text)
    services.update_tenant(SYSTEM, home.tenant, active=True)
    services.revoke_api_key(SYSTEM, home.key)
    services.revoke_api_key(SYSTEM, home.key)
    with pytest.raises(Unauthenticated, match="revoked"):
        services.authenticate_key(home.key_text)
    assert types(home.tenant.id).count("key.revoked") == 1


def test_expired_keys_are_refused() -> None:
    home = factories.household()
    issued = services.create_api_key(
        SYSTEM, home.tenant, home.project, "short", expires_at=timezone.now() + timedelta(hours=1)
    )
    assert services.authenticate_key(issued.text).scopes == {Scope.INFERENCE.value}
    with rls.tenant_scope(home.tenant.id):
        ApiKey.objects.filter(id=issued.key.id).update(expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(Unauthenticated, match="expired"):
        services.authenticate_key(issued.text)
    with pytest.raises(Invalid) as caught:
        services.create_api_key(SYSTEM, home.tenant, home.project, "past", expires_at=timezone.now())
    assert caught.value.param == "expires_at"
