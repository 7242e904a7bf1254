"""Who stands behind an account: whoever made or changed it lately, and whoever stood behind him then."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, KasbahError
from kasbah.common.ids import uuid7
from kasbah.identity import services
from kasbah.identity.models import AccountChange, AccountChangeKind, Membership, Role, User
from kasbah.identity.services import Actor, Permission, Proposal, actor_of_key, approvals, standing, tenants
from tests import factories
from tests.factories import SYSTEM, fresh

pytestmark = pytest.mark.django_db
PASSWORD = "a long enough passphrase"


def root() -> User:
    return factories.user(is_platform_admin=True)


def changed(by: User | None, of: User, *, hours: float, tenant: Any = None, kind: str = "created") -> AccountChange:
    """`by` (None: an API key that nobody made) did something to the account `of` so many hours ago."""
    with rls.platform_scope():
        return AccountChange.objects.create(
            user_id=of.id,
            tenant_id=tenant.id if tenant else None,
            kind=kind,
            actor_kind="user" if by else "api_key",
            actor_id=str(by.id) if by else "k",
            changed_by=by.id if by else None,
            changed_at=timezone.now() - timedelta(hours=hours),
        )


def apart(one: User, other: User, tenant: Any = None) -> bool:
    try:
        standing.require_apart(one.id, [other.id], tenant.id if tenant else None)
    except Forbidden:
        return False
    return True


def test_whoever_made_an_account_stands_behind_it_until_the_time_is_over(settings: Any) -> None:
    ada, eve = root(), root()
    assert apart(ada, eve)
    changed(ada, eve, hours=23.9)
    assert not apart(ada, eve)
    assert not apart(eve, ada)  # a second account is as good for asking as for agreeing
    settings.REVIEW_WAIT_HOURS = 12
    assert apart(ada, eve)


@pytest.mark.parametrize(
    "act",
    [
        lambda ada, eve: services.update_user(ada, eve, password=PASSWORD),
        lambda ada, eve: services.update_user(ada, eve, is_platform_admin=False),
        lambda ada, eve: (
            services.update_user(SYSTEM, eve, is_active=False),
            services.update_user(ada, eve, is_active=True),
        ),
    ],
    ids=["password", "platform_role", "activated"],
)
def test_every_change_that_gives_the_account_or_its_power_counts(act: Callable[[Actor, User], Any]) -> None:
    ada, eve = root(), root()
    act(fresh(ada), eve)
    assert not apart(ada, eve)


def test_making_an_account_and_giving_a_role_count() -> None:
    ada, home = root(), factories.household()
    eve = services.create_user(fresh(ada), "eve@example.org", PASSWORD)
    assert not apart(ada, eve)
    grace = factories.user()
    member = factories.membership(home.tenant, grace, Role.DEVELOPER)
    services.change_role(fresh(home.admin), member, Role.TENANT_ADMIN)
    assert not apart(home.admin, grace, home.tenant)
    assert apart(home.admin, grace)  # a role counts in its own tenant
    assert apart(home.admin, grace, factories.tenant())


def test_what_does_not_give_power_over_somebody_does_not_count() -> None:
    ada, eve, other = root(), root(), root()
    services.update_user(fresh(ada), eve, name="Eve")
    services.update_user(fresh(eve), eve, password=PASSWORD)  # his own
    services.update_user(fresh(ada), other, is_active=False)
    assert apart(ada, eve)
    assert apart(ada, other)
    with rls.platform_scope():
        assert not AccountChange.objects.exists()


def test_a_chain_is_no_longer_way_round() -> None:
    """A makes B, B makes C; C does not agree to what A asks, nor the other way round."""
    ada, bob, carol, dave = (root() for _ in range(4))
    changed(ada, bob, hours=40)
    changed(bob, carol, hours=20)  # then B was 20 hours old and not yet his own
    changed(carol, dave, hours=1, kind="password")
    assert not apart(ada, carol)
    assert not apart(carol, ada)
    assert not apart(ada, dave)
    assert apart(ada, bob)  # his time is over


def test_what_happened_to_the_maker_afterwards_says_nothing() -> None:
    ada, bob, carol = root(), root(), root()
    changed(bob, carol, hours=10)
    changed(ada, bob, hours=5, kind="password")
    assert apart(ada, carol)
    assert not apart(bob, carol)


def test_two_accounts_that_a_third_made_are_his_both() -> None:
    ada, bob, carol = root(), root(), root()
    changed(ada, bob, hours=3)
    changed(ada, carol, hours=2)
    assert not apart(bob, carol)


def test_what_a_key_did_may_have_been_anybody() -> None:
    ada, eve = root(), root()
    changed(None, eve, hours=1)
    assert not apart(ada, eve)
    assert not apart(eve, ada)


def test_a_key_that_gives_a_role_is_noted_with_its_maker() -> None:
    home, grace = factories.household(), factories.user()
    key, text = factories.api_key(home.project, scopes=("management",), role=Role.TENANT_ADMIN, made_by=home.admin)
    actor = actor_of_key(services.authenticate_key(text))
    member = factories.membership(home.tenant, grace, Role.DEVELOPER)
    services.change_role(actor, member, Role.TENANT_ADMIN)
    with rls.platform_scope():
        (row,) = AccountChange.objects.all()
    assert (row.actor_kind, row.actor_id, row.changed_by) == ("api_key", str(key.id), home.admin.id)
    assert not apart(root(), grace, home.tenant)


def test_what_the_installations_commands_did_stands_behind_nobody() -> None:
    ada = services.create_user(services.system("command:root", "command"), "ada@example.org", PASSWORD)
    eve = services.create_user(services.system("command:root", "command"), "eve@example.org", PASSWORD)
    assert apart(ada, eve)
    facts = standing.account_facts(ada.id, None, "reviewer")
    assert facts["reviewer_account_made_by"] == "system:command:root"


def test_a_web_of_changes_without_end_is_refused_and_not_followed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    people = [root() for _ in range(6)]
    for one in people:
        for other in people:
            if one is not other:
                changed(one, other, hours=1 + people.index(one) / 10)
    monkeypatch.setattr(standing, "MOST_STEPS", 3)
    assert not apart(people[0], root())


class TestConfirming:
    """A third person says that an account is its person's own."""

    def confirm(self, who: Actor, of: User, tenant: Any = None) -> None:
        ident = tenant.id if tenant else None
        services.confirm_changes(who, of, ident, services.unconfirmed(of.id, ident).digest)

    def test_by_a_third_person_it_counts_no_more(self) -> None:
        ada, eve, third = root(), root(), root()
        changed(ada, eve, hours=1)
        self.confirm(fresh(third), eve)
        assert apart(ada, eve)
        event = factories.events_of(None)[-1]
        assert (event["type"], event["actor"]["id"]) == ("user.confirmed", str(third.id))
        assert event["details"]["changes"][0].startswith(f"created by user:{ada.id} at ")

    @pytest.mark.parametrize("who", ["maker", "himself", "puppet", "chain", "keyed", "behind the maker"])
    def test_by_nobody_who_is_no_third(self, who: str) -> None:
        ada, eve, other = root(), root(), root()
        changed(ada, eve, hours=1)
        confirmer = {"maker": ada, "himself": eve}.get(who, other)
        if who == "puppet":
            changed(ada, other, hours=1)
        if who == "chain":
            between = root()
            changed(ada, between, hours=3)
            changed(between, other, hours=1)
        if who == "keyed":
            changed(None, other, hours=1)
        if who == "behind the maker":
            changed(other, ada, hours=2)
        with pytest.raises(Forbidden) as caught:
            self.confirm(fresh(confirmer), eve)
        assert caught.value.code == "third_person"
        assert not apart(ada, eve)

    def test_it_takes_a_fresh_login_a_person_and_what_was_looked_at(self) -> None:
        ada, eve, third = root(), root(), root()
        changed(ada, eve, hours=1)
        for actor, digest, code in (
            (services.actor_of_user(third), None, "reauthentication_required"),
            (fresh(third), "0" * 64, "changed_since"),
            (fresh(third), "", "changed_since"),
            (fresh(factories.household().admin), None, "permission_denied"),
        ):
            seen = services.unconfirmed(eve.id, None).digest if digest is None else digest
            with pytest.raises(KasbahError) as caught:
                services.confirm_changes(actor, eve, None, seen)
            assert caught.value.code == code
        seen = services.unconfirmed(eve.id, None).digest
        changed(ada, eve, hours=0, kind="password")
        with pytest.raises(Conflict, match="no longer those"):
            services.confirm_changes(fresh(third), eve, None, seen)

    def test_a_role_is_confirmed_in_its_tenant_and_the_account_by_the_platform(self) -> None:
        home, grace = factories.household(), factories.user()
        third = factories.user()
        factories.membership(home.tenant, grace)
        factories.membership(home.tenant, third)
        changed(home.admin, grace, hours=1, tenant=home.tenant, kind="role")
        self.confirm(fresh(third), grace, home.tenant)
        assert apart(home.admin, grace, home.tenant)
        changed(home.admin, grace, hours=1, kind="password")
        with pytest.raises(Conflict, match="nothing to confirm"):
            self.confirm(fresh(third), grace, home.tenant)
        assert not apart(home.admin, grace, home.tenant)

    def test_the_operator_at_the_machine_confirms_and_it_is_on_record(self) -> None:
        ada, eve = root(), root()
        changed(ada, eve, hours=1)
        self.confirm(services.system("command:root", "command"), eve)
        assert apart(ada, eve)
        assert factories.events_of(None)[-1]["actor"] == {
            "kind": "system",
            "id": "command:root",
            "authentication": "command",
        }


class TestGuards:
    """Who stands behind an account stays on record, whatever program asks."""

    @pytest.mark.parametrize(
        "statement",
        [
            "DELETE FROM identity_accountchange",
            "UPDATE identity_accountchange SET changed_by = NULL",
            "UPDATE identity_accountchange SET changed_at = now() - interval '2 days'",
            "UPDATE identity_accountchange SET confirmed_at = NULL, confirmed_by = ''",
        ],
    )
    def test_for_the_application(self, statement: str) -> None:
        changed(root(), root(), hours=1)
        with pytest.raises(DatabaseError), transaction.atomic(), rls.platform_scope(), connection.cursor() as cursor:
            cursor.execute(statement)

    def test_for_the_owner_too(self, owner: psycopg.Connection) -> None:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="stays on record"):
            owner.execute("TRUNCATE identity_accountchange")


def test_the_control_without_the_look_behind_accounts_one_person_gets_through(monkeypatch: pytest.MonkeyPatch) -> None:
    ada, eve = root(), root()
    changed(ada, eve, hours=1)
    proposal = Proposal(asked_by=ada.id, permission=Permission.BASELINE_MANAGE, tenant_id=None)
    with pytest.raises(Forbidden, match="One person may stand behind both") as caught:
        approvals.require_approver(fresh(eve), proposal)
    assert caught.value.code == "one_person_behind_both"
    monkeypatch.setattr(standing, "_lately", lambda *_: [])
    assert approvals.require_approver(fresh(eve), proposal)["reviewer_account_made_by"] == f"user:{ada.id}"


def reads(home: factories.Household, who: User) -> bool:
    """Whether this auditor may open content."""
    try:
        standing.require_appointed(who.id, home.tenant.id)
    except Forbidden:
        return False
    return True


def test_an_auditor_reads_where_two_made_him_one(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    home, ada, grace = factories.household(), root(), root()
    mine = services.create_user(fresh(ada), f"{uuid7()}@example.org", PASSWORD)
    for by, good in ((ada, False), (grace, True)):
        with transaction.atomic():
            changed(by, mine, hours=1, tenant=home.tenant, kind="role")
            assert reads(home, mine) is good
            transaction.set_rollback(True)
    changed(None, mine, hours=1, tenant=home.tenant, kind="role")
    assert not reads(home, mine), "what a key gave may be anybody's gift"
    confirmed = standing.unconfirmed(mine.id, home.tenant.id)
    services.confirm_changes(fresh(grace), mine, home.tenant.id, confirmed.digest)
    assert reads(home, mine)
    changed(ada, mine, hours=1, tenant=home.tenant, kind="role")
    assert not reads(home, mine)
    assert reads(factories.household(), mine), "a role counts in its own tenant"
    with monkeypatch.context() as patch:  # the control: without the look behind accounts one person reads
        patch.setattr(standing, "behind", lambda *_: frozenset())
        assert reads(home, mine)
    settings.REVIEW_WAIT_HOURS = 0.5
    assert reads(home, mine)


def test_not_where_a_third_made_both_nor_where_the_auditor_made_whoever_appointed_him() -> None:
    home, eve, giver, auditor = factories.household(), root(), root(), factories.user()
    changed(giver, auditor, hours=1, tenant=home.tenant, kind="role")
    assert reads(home, auditor)
    changed(auditor, giver, hours=2)
    assert not reads(home, auditor)
    other, third = factories.user(), root()
    for made in (other, third):
        changed(eve, made, hours=3)
    changed(third, other, hours=1, tenant=home.tenant, kind="role")
    assert not reads(home, other)


def test_nobody_gives_himself_a_role_by_an_invitation_or_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    home, ada = factories.household(), root()
    factories.membership(home.tenant, factories.user(), Role.TENANT_ADMIN)
    own = services.invite(fresh(ada), home.tenant, ada.email, Role.AUDITOR)
    with pytest.raises(Forbidden, match="Nobody changes his own membership"):
        services.accept_invitation(fresh(ada), ada, own.id)
    services.withdraw_invitation(fresh(ada), own)
    _, text = factories.api_key(home.project, scopes=("management",), role=Role.TENANT_ADMIN, made_by=ada)
    own = services.invite(actor_of_key(services.authenticate_key(text)), home.tenant, ada.email, Role.DEVELOPER)
    with pytest.raises(Forbidden, match="Nobody changes his own membership"):
        services.accept_invitation(fresh(ada), ada, own.id)
    _, text = factories.api_key(home.project, scopes=("management",), role=Role.TENANT_ADMIN, made_by=home.admin)
    key = actor_of_key(services.authenticate_key(text))
    with rls.tenant_scope(home.tenant.id):
        mine = Membership.objects.select_related("user").get(user=home.admin)
    with pytest.raises(Forbidden, match="Nobody changes his own membership"):
        services.change_role(key, mine, Role.AUDITOR)
    monkeypatch.setattr(tenants, "person_behind", lambda _: None)  # the control: so both come through
    assert services.accept_invitation(fresh(ada), ada, own.id)[1] == Role.DEVELOPER
    assert services.change_role(key, mine, Role.AUDITOR).role == Role.AUDITOR


def test_the_facts_of_an_approval_say_when_and_by_whom() -> None:
    ada, eve = root(), root()
    made = changed(ada, eve, hours=50)
    last = changed(ada, eve, hours=30, kind=AccountChangeKind.PASSWORD)
    facts = standing.account_facts(eve.id, None, "reviewer")
    assert facts == {
        "reviewer_account_made_at": _written(made.changed_at),
        "reviewer_account_made_by": f"user:{ada.id}",
        "reviewer_account_changed_at": _written(last.changed_at),
        "reviewer_account_changed_by": f"user:{ada.id}",
        "reviewer_account_change": "password",
    }


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
