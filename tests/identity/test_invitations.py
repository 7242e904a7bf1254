"""Members come by invitation: nobody learns who is elsewhere, and nobody is a member without agreeing."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from rest_framework.test import APIClient

from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, NotFound
from kasbah.identity import services
from kasbah.identity.models import AccountChange, Invitation, InvitationState, Membership, Role, User
from kasbah.identity.services import Actor, actor_of_key, invitations
from tests import factories
from tests.factories import SYSTEM, fresh

pytestmark = pytest.mark.django_db
DIFFERS = ("id", "created_at", "expires_at")  # of any two invitations


@pytest.fixture
def home() -> factories.Household:
    return factories.household()


def client(user: User) -> APIClient:
    made = APIClient()
    made.force_login(user)
    return made


def accept(who: User, invitation: Invitation) -> None:
    services.accept_invitation(fresh(who), who, invitation.id)


def roles(home: factories.Household, who: User) -> list[str]:
    with rls.tenant_scope(home.tenant.id):
        return list(Membership.objects.filter(user=who).values_list("role", flat=True))


def test_the_answer_is_the_same_for_known_and_unknown_addresses(home: factories.Household) -> None:
    stranger = factories.household().admin  # of another tenant
    stranger.name = "Grace Hopper"
    stranger.save()
    gone = factories.user()
    User.objects.filter(pk=gone.pk).update(is_active=False)
    answers, place, admin = [], f"/api/tenants/{home.tenant.slug}/members/", client(home.admin)
    for email in (stranger.email, gone.email, "nobody-at-all@example.org"):
        made, again = (admin.post(place, {"email": email, "role": "auditor"}) for _ in range(2))
        body = made.json()
        assert body.pop("email") == email
        same = json.dumps({name: value for name, value in body.items() if name not in DIFFERS}, sort_keys=True)
        answers.append((made.status_code, same, again.status_code, again.content))
    assert len(set(answers)) == 1
    assert answers[0][0] == 202
    listed = client(home.admin).get(f"/api/tenants/{home.tenant.slug}/invitations/").content
    assert b"Grace" not in listed
    assert client(home.admin).get(f"/api/tenants/{home.tenant.slug}/members/?user={stranger.id}").json()["data"] == []


def test_the_same_work_is_done_whether_anybody_has_the_address(home: factories.Household) -> None:
    """Nobody even looks: what is asked of the database is the same, so its time tells nothing either."""
    asked = []
    for email in (factories.user().email, "nobody-at-all@example.org"):
        with CaptureQueriesContext(connection) as queries:
            services.invite(fresh(home.admin), home.tenant, email, Role.AUDITOR)
        statements = [query["sql"] for query in queries if "SAVEPOINT" not in query["sql"]]
        asked.append([statement.split(" WHERE ")[0].split(" VALUES ")[0] for statement in statements])
    assert asked[0] == asked[1] != []
    assert not any('FROM "identity_user"' in statement for statement in asked[0])


def test_who_is_invited_agrees_and_the_log_says_by_whom_and_how_old_he_is(home: factories.Household) -> None:
    made = services.invite(fresh(home.admin), home.tenant, "Grace@Example.org", Role.DEVELOPER)
    grace = services.create_user(SYSTEM, "grace@example.org", "a long enough passphrase")
    User.objects.filter(pk=grace.pk).update(must_change_password=False)
    grace.refresh_from_db()
    assert roles(home, grace) == []
    (seen,) = client(grace).get("/api/me/invitations/").json()
    assert (seen["id"], seen["tenant"], seen["role"]) == (str(made.id), home.tenant.slug, "developer")
    answer = client(grace).post(f"/api/me/invitations/{made.id}/accept/")
    assert (answer.status_code, answer.json()["role"]) == (201, "developer")
    assert roles(home, grace) == ["developer"]
    event = factories.events_of(home.tenant.id)[-1]
    assert (event["type"], event["actor"]["id"]) == ("membership.added", str(grace.id))
    assert event["details"]["granted_by"] == f"user:{home.admin.id}"
    assert event["details"]["member_account_made_by"] == "system:tests"
    assert "example.org" not in json.dumps(factories.events_of(home.tenant.id))
    with rls.platform_scope():
        assert [(row.user_id, row.changed_by) for row in AccountChange.objects.filter(kind="role")] == [
            (grace.id, home.admin.id)
        ]
    with pytest.raises(Conflict, match="no longer open"):
        accept(grace, made)


def test_nobody_accepts_for_another_and_no_key_does(home: factories.Household, monkeypatch: pytest.MonkeyPatch) -> None:
    made = services.invite(fresh(home.admin), home.tenant, factories.user().email, Role.DEVELOPER)
    eve = factories.user()
    with pytest.raises(NotFound):
        accept(eve, made)
    assert client(eve).get("/api/me/invitations/").json() == []
    with pytest.raises(Forbidden):
        services.accept_invitation(actor_of_key(home.principal), eve, made.id)
    assert client(eve).post(f"/api/me/invitations/{made.id}/accept/").status_code == 404


def test_it_ends_by_the_clock_by_withdrawal_and_with_who_made_it(
    home: factories.Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    grace, second = factories.user(), factories.user()
    member = factories.membership(home.tenant, second)
    withdrawn = services.invite(fresh(home.admin), home.tenant, grace.email, Role.DEVELOPER)
    services.withdraw_invitation(fresh(home.admin), withdrawn)
    with monkeypatch.context() as patch:
        patch.setattr(invitations, "LASTS", timedelta(seconds=-1))
        late = services.invite(fresh(home.admin), home.tenant, grace.email, Role.DEVELOPER)
    lapsed = services.invite(fresh(second), home.tenant, grace.email, Role.TENANT_ADMIN)
    services.change_role(SYSTEM, member, Role.DEVELOPER)
    for one in (withdrawn, late, lapsed):
        with pytest.raises(Conflict):
            accept(grace, one)
    assert roles(home, grace) == []
    assert invitations.expire_due() == 1
    with rls.tenant_scope(home.tenant.id):
        assert set(Invitation.objects.values_list("state", flat=True)) == {"withdrawn", "expired"}
    with monkeypatch.context() as patch:  # the control: without the look at who invited, it would go through
        patch.setattr(invitations, "_require_still", lambda *_: None)
        again = services.invite(fresh(home.admin), home.tenant, grace.email, Role.DEVELOPER)
        services.update_user(SYSTEM, home.admin, name="x")
        accept(grace, again)
    assert roles(home, grace) == ["developer"]


def test_one_invitation_that_cannot_be_looked_at_keeps_the_others_from_nothing(
    home: factories.Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invitations, "LASTS", timedelta(seconds=-1))
    first, _ = (services.invite(fresh(home.admin), home.tenant, f"{n}@example.org", Role.DEVELOPER) for n in range(2))
    real = invitations._end

    def failing(actor: Actor, row: Invitation, state: InvitationState) -> None:
        if row.id == first.id:
            raise ValueError("a defect")
        real(actor, row, state)

    monkeypatch.setattr(invitations, "_end", failing)
    assert invitations.expire_due() == 1


def test_a_key_invites_no_longer_than_it_and_its_maker_may(home: factories.Household) -> None:
    second, grace = factories.user(), factories.user()
    factories.membership(home.tenant, second)
    key, text = factories.api_key(home.project, scopes=("management",), role=Role.TENANT_ADMIN, made_by=second)
    made = services.invite(actor_of_key(services.authenticate_key(text)), home.tenant, grace.email, Role.DEVELOPER)
    services.update_user(SYSTEM, second, is_active=False, keys=services.KeyChoice.KEEP)
    with pytest.raises(Conflict, match="lapsed"):
        accept(grace, made)
    services.update_user(SYSTEM, second, is_active=True)
    services.revoke_api_key(SYSTEM, key)
    with pytest.raises(Conflict, match="lapsed"):
        accept(grace, made)


def test_nobody_invites_to_more_than_he_has_nor_without_end(
    home: factories.Household, monkeypatch: pytest.MonkeyPatch
) -> None:
    developer = factories.user()
    factories.membership(home.tenant, developer, Role.DEVELOPER)
    with pytest.raises(Forbidden):
        services.invite(fresh(developer), home.tenant, "a@example.org", Role.DEVELOPER)
    monkeypatch.setattr(invitations, "MOST_OPEN", 2)
    for number in range(2):
        services.invite(fresh(home.admin), home.tenant, f"{number}@example.org", Role.DEVELOPER)
    with pytest.raises(Conflict, match="invitations are open"):
        services.invite(fresh(home.admin), home.tenant, "a@example.org", Role.DEVELOPER)


def test_another_tenant_sees_none_and_the_application_changes_no_address(home: factories.Household) -> None:
    services.invite(fresh(home.admin), home.tenant, "a@example.org", Role.DEVELOPER)
    with rls.tenant_scope(factories.tenant().id):
        assert not Invitation.objects.exists()
    for change in ({"email": "b@example.org"}, {"role": "tenant_admin"}, {"expires_at": timezone.now()}):
        with pytest.raises(DatabaseError), transaction.atomic(), rls.platform_scope():
            Invitation.objects.update(**change)
