"""The life of a policy version: what loosens takes two people, and an approval holds for what was looked at alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError
from django.utils import timezone

from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, Invalid, KasbahError
from kasbah.identity.models import ApiKey, Role, Scope
from kasbah.identity.services import Actor, actor_of_user, approvals, system
from kasbah.residency import services
from kasbah.residency.models import Policy, PolicyState
from kasbah.residency.services import PolicyInvalid, activation, approval
from tests import factories
from tests.factories import SYSTEM, fresh

from .documents import allow, deny, document

pytestmark = pytest.mark.django_db
COMMAND = system("command:root", "command")
WIDE = document(allow())
NARROW = document(allow(), deny(jurisdictions=["US"]))
NARROWER = document(allow(), deny(jurisdictions=["US", "CN"]))
NOTHING = document()


class House:
    """A tenant with two administrators, who logged in just now."""

    def __init__(self) -> None:
        self.made = factories.household()
        self.tenant = self.made.tenant
        self.people = [self.made.admin, factories.user()]
        factories.membership(self.tenant, self.people[1])
        self.ada, self.grace = map(fresh, self.people)

    def asked(self, given: Any, at: Any = None, by: Actor | None = None) -> Policy:
        """A version whose activation somebody asked for."""
        who = by or self.ada
        return services.request_activation(who, services.create_policy(who, self.tenant, given), at)  # type: ignore[no-any-return]

    def states(self) -> dict[int, str]:
        with rls.tenant_scope(self.tenant.id):
            return dict(Policy.objects.order_by("version").values_list("version", "state"))

    def set(self, policy: Policy, **fields: Any) -> None:
        """As time would, or the clock."""
        with rls.tenant_scope(self.tenant.id):
            Policy.objects.filter(pk=policy.pk).update(**fields)

    def events(self) -> list[tuple[str, Any]]:
        found = factories.events_of(self.tenant.id)
        return [(str(e["type"]), e["details"]) for e in found if str(e["type"]).startswith("policy.")]


@pytest.fixture
def house(db: None) -> House:
    return House()


def refused(code: str, call: Any) -> KasbahError:
    with pytest.raises(KasbahError) as caught:
        call()
    assert caught.value.code == code, caught.value.message
    return caught.value


def past(**by: int) -> Any:
    return timezone.now() - timedelta(**by)


def test_what_loosens_waits_for_a_second_person_and_is_on_record(house: House) -> None:
    first = house.asked(WIDE)
    assert (first.state, first.activated_at) == (PolicyState.REQUESTED, None)
    assert {found["what"] for found in first.findings} == {"cell"}
    assert not services.explain(house.tenant, data_class="internal", model="m").allowed
    done = factories.approve(house.grace, first)
    assert (done.state, done.requested_by, done.reviewed_by) == (PolicyState.ACTIVE, *house.people)
    kinds = [kind for kind, _ in house.events()]
    assert kinds == ["policy.created", "policy.requested", "policy.approved", "policy.activated"]
    details = dict(house.events())
    assert details["policy.requested"] == {
        "version": 1,
        "compared": 0,
        "loosens": len(first.findings),
        "needs_approval": True,
    }
    account = {"reviewer_account_made_at", "reviewer_account_made_by"}
    assert details["policy.approved"].keys() == {"version", "comparison"} | account
    assert (details["policy.approved"]["version"], details["policy.approved"]["comparison"]) == (1, first.comparison)
    assert details["policy.activated"] == {"version": 1, "superseded": 0, "bootstrap": False}


def test_a_tightening_needs_nobody_and_comes_at_once(house: House) -> None:
    factories.approve(house.grace, house.asked(WIDE))
    tightened = house.asked(NARROW)
    assert (tightened.state, tightened.findings, tightened.needs_approval) == (PolicyState.ACTIVE, [], False)
    assert house.states() == {1: "superseded", 2: "active"}
    assert house.asked(NARROWER, by=SYSTEM).state == PolicyState.ACTIVE  # nor even a person


def test_a_tenant_may_want_a_second_person_for_every_change(house: House) -> None:
    factories.approve(house.grace, house.asked(WIDE | {"approval": "always"}))
    tightened = house.asked(NARROW | {"approval": "always"})
    assert (tightened.state, tightened.findings, tightened.needs_approval) == (PolicyState.REQUESTED, [], True)
    assert factories.approve(house.grace, tightened).state == PolicyState.ACTIVE
    freed = house.asked(NARROWER)
    assert [found["what"] for found in freed.findings] == ["approval"]


def test_neither_who_asked_nor_who_wrote_approves_or_rejects(house: House) -> None:
    draft = services.create_policy(house.grace, house.tenant, WIDE)
    asked = services.request_activation(house.ada, draft)
    third = factories.user()
    factories.membership(house.tenant, third)
    for who in (house.ada, house.grace):
        refused("second_person", lambda who=who: factories.approve(who, asked))
        refused("second_person", lambda who=who: services.reject_policy(who, asked, "No."))
    assert factories.approve(fresh(third), asked).state == PolicyState.ACTIVE


def test_a_key_neither_asks_for_a_loosening_nor_approves_nor_hides_who_wrote(house: House) -> None:
    key, _ = factories.api_key(house.made.project, scopes=(Scope.MANAGEMENT,), role=Role.TENANT_ADMIN)
    with rls.tenant_scope(house.tenant.id):
        ApiKey.objects.filter(pk=key.pk).update(created_by=house.people[1])
    made = Actor("api_key", str(key.id), "api_key", role=Role.TENANT_ADMIN, tenant_id=house.tenant.id)
    draft = services.create_policy(made, house.tenant, WIDE)
    assert draft.created_by == house.people[1]
    refused("person_needed", lambda: services.request_activation(made, draft))
    asked = services.request_activation(house.ada, draft)
    refused("permission_denied", lambda: factories.approve(made, asked))
    refused("second_person", lambda: factories.approve(house.grace, asked))  # her key wrote it
    refused("permission_denied", lambda: factories.approve(SYSTEM, asked))
    assert house.states() == {1: "requested"}


def test_who_may_approve(house: House) -> None:
    asked = house.asked(WIDE)
    developer = factories.user()
    factories.membership(house.tenant, developer, Role.DEVELOPER)
    refused("permission_denied", lambda: factories.approve(fresh(developer), asked))
    refused("not_found", lambda: factories.approve(fresh(factories.household().admin), asked))
    assert factories.approve(fresh(factories.user(is_platform_admin=True)), asked).state == PolicyState.ACTIVE


@pytest.mark.parametrize(("seconds", "authentication", "good"), [
    (590, "session", True), (610, "session", False), (10**9, "session", False), (10**9, "command", True),
])  # fmt: skip
def test_an_approval_takes_a_fresh_login(house: House, seconds: int, authentication: str, good: bool) -> None:
    asked = house.asked(WIDE)
    who = actor_of_user(house.people[1], authentication, logged_in_at=time.time() - seconds)
    if good:
        assert factories.approve(who, asked).state == PolicyState.ACTIVE
    else:
        error = refused("reauthentication_required", lambda: factories.approve(who, asked))
        assert (error.status, "POST /api/session/" in error.message) == (403, True)
        refused("reauthentication_required", lambda: services.reject_policy(who, asked, "No."))
        assert house.states() == {1: "requested"}


def test_an_approval_holds_for_the_comparison_that_was_looked_at(house: House) -> None:
    factories.approve(house.grace, house.asked(NARROW))
    asked = house.asked(WIDE)
    looked_at = asked.comparison
    assert house.asked(NARROWER).state == PolicyState.ACTIVE
    refused("comparison_stale", lambda: services.approve_policy(house.grace, asked, looked_at))
    with pytest.raises(Conflict, match="later version 3 is active"):
        services.request_activation(house.ada, asked)
    newer = house.asked(WIDE)
    refused("comparison_stale", lambda: services.approve_policy(house.grace, newer, looked_at))
    assert services.approve_policy(house.grace, newer, newer.comparison).state == PolicyState.ACTIVE


def test_a_request_is_compared_anew_when_it_is_asked_for_again(house: House) -> None:
    factories.approve(house.grace, house.asked(WIDE))
    tighter, wide = (services.create_policy(house.ada, house.tenant, given) for given in (NARROW, WIDE))
    assert services.request_activation(house.ada, tighter).state == PolicyState.ACTIVE
    asked = services.request_activation(house.ada, wide)
    again = services.request_activation(house.grace, wide)
    assert (again.requested_by, again.comparison) == (house.people[1], asked.comparison)
    refused("second_person", lambda: factories.approve(house.grace, again))  # it is she now who asked


def test_a_request_that_nobody_answers_expires(house: House) -> None:
    asked = house.asked(WIDE)
    assert asked.expires_at is not None
    assert timedelta(days=6.9) < asked.expires_at - timezone.now() < timedelta(days=7)
    assert services.activate_due() == {}
    house.set(asked, expires_at=past(seconds=1))
    with pytest.raises(Conflict, match="has expired"):
        factories.approve(house.grace, asked)
    assert services.activate_due() == {"expired": 1}
    assert (house.states(), house.events()[-1]) == ({1: "expired"}, ("policy.expired", {"version": 1}))
    assert services.activate_due() == {}


def test_what_is_approved_for_later_decides_from_then_on(house: House) -> None:
    factories.approve(house.grace, house.asked(NARROW))
    later = timezone.now() + timedelta(hours=1)
    asked = house.asked(WIDE, at=later)
    planned = factories.approve(house.grace, asked)
    assert (planned.state, planned.activate_at) == (PolicyState.APPROVED, later)
    assert services.activate_due() == {}
    house.set(planned, activate_at=past(seconds=1))
    assert services.activate_due() == {"activated": 1}
    assert house.states() == {1: "superseded", 2: "active"}
    event = factories.events_of(house.tenant.id)[-1]
    assert (event["type"], event["actor"]["id"]) == ("policy.activated", "housekeeping")  # type: ignore[index]
    assert services.activate_due() == {}


def test_a_tightening_can_be_planned_by_one(house: House) -> None:
    factories.approve(house.grace, house.asked(WIDE))
    planned = house.asked(NARROW, at=timezone.now() + timedelta(days=1))
    assert planned.state == PolicyState.APPROVED
    for when in (past(minutes=1), timezone.now() + timedelta(days=400), timezone.now().replace(tzinfo=None)):
        with pytest.raises(Invalid) as caught:
            house.asked(NARROW, at=when)
        assert caught.value.param == "at"


def test_what_was_planned_is_compared_once_more_when_its_time_comes(house: House) -> None:
    """Planned as a tightening; meanwhile an emergency closed more, so that now it would open something."""
    factories.approve(house.grace, house.asked(WIDE))
    planned = house.asked(NARROW, at=timezone.now() + timedelta(days=1))
    house.asked(NARROWER)
    house.set(planned, activate_at=past(seconds=1))
    assert services.activate_due() == {"sent back": 1}
    assert house.states() == {1: "superseded", 2: "requested", 3: "active"}
    with rls.tenant_scope(house.tenant.id):
        planned.refresh_from_db()
    assert "not what was agreed" in planned.reason
    assert planned.compared_version == 3
    assert house.events()[-1][1]["sent_back"] is True
    assert services.activate_due() == {}
    assert factories.approve(house.grace, planned).state == PolicyState.ACTIVE


def test_an_approval_does_not_outlive_the_version_it_was_compared_with(house: House) -> None:
    factories.approve(house.grace, house.asked(NARROW))
    asked = house.asked(WIDE, at=timezone.now() + timedelta(days=1))
    planned = factories.approve(house.grace, asked)
    house.asked(NARROWER)
    house.set(planned, activate_at=past(seconds=1))
    assert services.activate_due() == {"sent back": 1}
    with rls.tenant_scope(house.tenant.id):
        planned.refresh_from_db()
    assert (planned.state, planned.reviewed_by) == (PolicyState.REQUESTED, None)


def test_what_the_platform_planned_waits_for_a_person_who_asks(house: House) -> None:
    factories.approve(house.grace, house.asked(WIDE))
    planned = house.asked(NARROW, at=timezone.now() + timedelta(days=1), by=SYSTEM)
    house.asked(NARROWER, by=SYSTEM)
    house.set(planned, activate_at=past(seconds=1))
    services.activate_due()
    with pytest.raises(Conflict, match="No person asked"):
        factories.approve(house.grace, planned)


def test_a_rejection_says_why_and_ends_it(house: House) -> None:
    asked = house.asked(WIDE)
    with pytest.raises(Invalid) as caught:
        services.reject_policy(house.grace, asked, "  ")
    assert caught.value.param == "reason"
    done = services.reject_policy(house.grace, asked, "Too wide.")
    assert (done.state, done.reason, done.reviewed_by) == (PolicyState.REJECTED, "Too wide.", house.people[1])
    steps: list[Callable[[], Any]] = [
        lambda: factories.approve(house.grace, asked),
        lambda: services.request_activation(house.ada, asked),
        lambda: services.withdraw_policy(house.ada, asked),
    ]
    for step in steps:
        with pytest.raises(Conflict, match="is rejected"):
            step()
    assert house.events()[-1] == ("policy.rejected", {"version": 1})


def test_a_request_and_a_plan_can_be_withdrawn(house: House) -> None:
    services.withdraw_policy(house.ada, house.asked(WIDE))
    factories.approve(house.grace, house.asked(WIDE))
    planned = house.asked(NARROW, at=timezone.now() + timedelta(days=1))
    services.withdraw_policy(house.grace, planned)
    assert house.states() == {1: "withdrawn", 2: "active", 3: "withdrawn"}
    house.set(planned, activate_at=past(seconds=1))
    assert services.activate_due() == {}
    withdrawn = [details for kind, details in house.events() if kind == "policy.withdrawn"]
    assert withdrawn == [{"version": 1, "was": "requested"}, {"version": 3, "was": "approved"}]
    with pytest.raises(Conflict, match="nothing to withdraw"):
        services.withdraw_policy(house.ada, services.create_policy(house.ada, house.tenant, WIDE))


def test_rolling_back_is_a_new_version_on_the_same_terms(house: House) -> None:
    rule = "{id: a, effect: allow, data_classes: [internal], models: ['*'], sites: ['*']}"
    text = f"# The first\nversion: 1\nrules:\n- {rule}\n"
    first = factories.approve(house.grace, house.asked(text))
    second = house.asked(NOTHING)
    back = services.roll_back(house.ada, first)
    assert (back.version, back.state, back.document, back.source) == (3, "requested", first.document, text)
    refused("second_person", lambda: factories.approve(house.ada, back))
    assert factories.approve(house.grace, back).state == PolicyState.ACTIVE
    emergency = services.roll_back(house.ada, second)  # tightens, so it needs nobody
    assert (emergency.version, emergency.state) == (4, "active")
    assert [details for kind, details in house.events() if kind == "policy.rolled_back"] == [
        {"version": 3, "to": 1},
        {"version": 4, "to": 2},
    ]
    for version, why in ((emergency, "active already"), (house.asked(WIDE), "never was active")):
        with pytest.raises(Conflict, match=why):
            services.roll_back(house.ada, version)


def test_the_installation_sets_up_a_tenants_first_policy_alone_and_says_so(house: House) -> None:
    draft = services.create_policy(COMMAND, house.tenant, WIDE)
    for who in (house.ada, fresh(factories.user(is_platform_admin=True)), system("housekeeping"), SYSTEM):
        with pytest.raises(Forbidden, match="Only a command of the installation"):
            services.request_activation(who, draft, bootstrap=True)
    refused("person_needed", lambda: services.request_activation(COMMAND, draft))
    assert services.request_activation(COMMAND, draft, bootstrap=True).state == PolicyState.ACTIVE
    assert house.events()[-1] == ("policy.activated", {"version": 1, "superseded": 0, "bootstrap": True})
    house.asked(NOTHING)
    with pytest.raises(Conflict, match="There has been an active policy"):
        services.request_activation(COMMAND, services.create_policy(COMMAND, house.tenant, WIDE), bootstrap=True)


def test_a_text_is_kept_with_its_comments_and_its_errors_name_the_line(house: House) -> None:
    text = "version: 1  # ours\nrules:\n- id: nothing\n  effect: deny\n"
    policy = services.create_policy(house.ada, house.tenant, text)
    assert policy.document == {"version": 1, "rules": [{"id": "nothing", "effect": "deny"}]}
    assert policy.source == text
    assert services.create_policy(house.ada, house.tenant, policy.document).digest == policy.digest
    with pytest.raises(PolicyInvalid) as caught:
        services.create_policy(house.ada, house.tenant, text + "  colour: red\n- id: [1]\n  effect: deny\n")
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (5, "/rules/0/colour"),
        (6, "/rules/1/id"),
    ]
    with pytest.raises(PolicyInvalid, match="line 2"):
        services.create_policy(house.ada, house.tenant, "version: 1\nversion: 1\n")


def test_one_tenants_trouble_does_not_hold_up_another(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    houses = [house, House()]
    for one in houses:
        factories.approve(one.grace, one.asked(WIDE))
        planned = one.asked(NARROW, at=timezone.now() + timedelta(days=1))
        one.set(planned, activate_at=past(seconds=1))
    put_in_force = activation.put_in_force

    def fails(shelf: Any, *rest: Any) -> None:
        if shelf.tenant_id == house.tenant.id:
            raise RuntimeError
        put_in_force(shelf, *rest)

    monkeypatch.setattr(activation, "put_in_force", fails)
    assert services.activate_due() == {"failed": 1, "activated": 1}
    monkeypatch.undo()
    assert services.activate_due() == {"activated": 1}
    assert [one.states()[2] for one in houses] == ["active", "active"]


def test_the_clock_of_housekeeping_looks_every_few_seconds(house: House) -> None:
    from kasbah.config.celery import app

    app.loader.import_default_modules()
    entry = app.conf.beat_schedule["activate-policies"]
    assert entry["schedule"] <= 5
    asked = house.asked(WIDE)
    house.set(asked, expires_at=past(seconds=1))
    app.tasks[entry["task"]].run()
    assert house.states() == {1: "expired"}


def test_an_explanation_is_of_a_time(house: House) -> None:
    services.create_site(SYSTEM, "paris", "Paris", "FR", "redis://127.0.0.1:1/0")
    until = timezone.now() + timedelta(hours=1)
    factories.active_policy(house.tenant, document(allow(windows=[{"not_after": f"{until:%Y-%m-%dT%H:%M:%SZ}"}])))
    for at, allowed in ((None, True), (until + timedelta(hours=1), False)):
        assert services.explain(house.tenant, data_class="internal", model="m", at=at).allowed is allowed


class TestNegativeControls:
    """With a guard switched off, what it holds back comes through: so the tests above see it."""

    def test_the_fresh_login(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(approvals, "require_fresh_login", lambda actor: None)
        assert factories.approve(actor_of_user(house.people[1]), house.asked(WIDE)).state == PolicyState.ACTIVE

    def test_the_second_person_in_the_service_and_behind_it_the_database(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = house.asked(WIDE)
        monkeypatch.setattr(approval, "require_approver", lambda *_: {})
        with pytest.raises(IntegrityError, match="another_than_asked"):
            factories.approve(house.ada, asked)

    def test_what_an_approval_is_bound_to(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        factories.approve(house.grace, house.asked(NARROW))
        asked = house.asked(WIDE)
        house.asked(NARROWER)
        monkeypatch.setattr(approval, "_check_bound", lambda *_: None)
        assert factories.approve(house.grace, asked).state == PolicyState.ACTIVE

    def test_the_look_before_it_decides(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        factories.approve(house.grace, house.asked(WIDE))
        planned = house.asked(NARROW, at=timezone.now() + timedelta(days=1))
        house.asked(NARROWER)
        house.set(planned, activate_at=past(seconds=1))
        monkeypatch.setattr(activation, "_obstacle", lambda *_: "")
        assert services.activate_due() == {"activated": 1}
