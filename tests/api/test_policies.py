"""Policies over the API: written, compared, asked for, approved by a second person, rolled back; the baseline too."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from kasbah.identity.models import User
from tests import factories
from tests.api import world
from tests.api.conftest import error

PASSWORD = "correct horse battery staple"
TEXT = """# Written by the officer
version: 1
rules:
  - id: all  # everything public
    effect: allow
    data_classes: [public]
    models: ["*"]
    sites: ["*"]
"""


@pytest.fixture
def platform(db):
    return world.make_platform()


@pytest.fixture
def second(as_user, home):
    """Another administrator of the tenant."""
    person = factories.user()
    factories.membership(home.tenant, person)
    return as_user(person)


@pytest.fixture
def base(home):
    return f"/api/tenants/{home.tenant.slug}/policies/"


def ask(client, base, given=None, **body):
    """A version whose activation was asked for."""
    made = client.post(base, {"document": world.POLICY} if given is None else given)
    assert made.status_code == 201, made.content
    return client.post(f"{base}{made.json()['id']}/request-activation/", body).json()


def approve(client, base, version):
    return client.post(f"{base}{version['id']}/approve/", {"comparison": version["comparison"]})


def test_a_policy_is_written_compared_approved_and_explained(admin, second, base, platform):
    verdict = admin.post(f"{base}validate/", {"text": "version: 2\nrules: []\n"}).json()
    assert (verdict["valid"], verdict["problems"][0]["path"], verdict["problems"][0]["line"]) == (False, "/version", 1)
    assert admin.post(f"{base}validate/", {"document": {"version": 2}}).json()["problems"][0]["line"] == 0
    assert admin.post(f"{base}validate/", {"text": TEXT}).json() == {"valid": True, "problems": []}
    assert error(admin.post(base, {"document": {"version": 2}}))["code"] == "policy_invalid"
    assert "line 2" in error(admin.post(base, {"text": "version: [1"}))["message"]
    for body in ({}, {"text": TEXT, "document": world.POLICY}):
        assert error(admin.post(base, body))["param"] == "document"
    asked = ask(admin, base, {"text": TEXT})
    assert (asked["state"], asked["document"], asked["text"]) == ("requested", world.POLICY, TEXT)
    assert {finding["what"] for finding in asked["findings"]} == {"cell"}
    question = {"data_class": "public", "model": "m"}
    assert admin.post(f"{base}decide/", question).json()["allowed"] is False
    done = approve(second, base, asked).json()
    assert (done["state"], done["digest"]) == ("active", asked["digest"])
    assert done["reviewed_by"] != done["requested_by"]
    decided = admin.post(f"{base}decide/", question).json()
    assert (decided["allowed"], decided["sites"], decided["policy_version"]) == (True, [platform.site.slug], 1)
    assert decided["baseline_version"] is None
    assert admin.post(f"{base}decide/", question | {"data_class": "secret"}).json()["allowed"] is False
    assert [policy["version"] for policy in admin.get(f"{base}?state=active").json()["data"]] == [1]


def test_one_person_alone_does_not_get_through(admin, as_key, home, base):
    asked = ask(admin, base)
    answer = approve(admin, base, asked)
    assert (answer.status_code, error(answer)["code"]) == (403, "second_person")
    key = factories.api_key(home.project, scopes=("management",), role="tenant_admin")[1]
    assert approve(as_key(key), base, asked).status_code == 403
    assert ask(as_key(key), base)["error"]["code"] == "person_needed"
    assert admin.get(f"{base}{asked['id']}/").json()["state"] == "requested"


def test_an_approval_asks_for_a_fresh_login_and_says_how(admin, as_user, home, base, redis):
    person = User.objects.create_user(f"{factories.slug('u')}@example.org", PASSWORD)
    factories.membership(home.tenant, person)
    client, asked = as_user(person), ask(admin, base)
    session = client.session
    session["kasbah.logged_in_at"] -= 601
    session.save()
    answer = approve(client, base, asked)
    assert (answer.status_code, error(answer)["code"]) == (403, "reauthentication_required")
    assert "POST /api/session/" in error(answer)["message"]
    assert client.post("/api/session/", {"email": person.email, "password": PASSWORD}).status_code == 200
    client.credentials(HTTP_X_CSRFTOKEN=client.cookies["csrftoken"].value)
    assert approve(client, base, asked).json()["state"] == "active"


def test_a_session_that_does_not_say_when_it_began_is_not_fresh(admin, second, base):
    asked, session = ask(admin, base), second.session
    del session["kasbah.logged_in_at"]
    session.save()
    assert error(approve(second, base, asked))["code"] == "reauthentication_required"


def test_what_is_approved_is_what_was_looked_at(admin, second, base):
    asked = ask(admin, base)
    stale = second.post(f"{base}{asked['id']}/approve/", {"comparison": "0" * 64})
    assert (stale.status_code, error(stale)["code"]) == (409, "comparison_stale")
    assert error(second.post(f"{base}{asked['id']}/approve/", {}))["param"] == "comparison"


def test_rejecting_withdrawing_planning_and_rolling_back(admin, second, base):
    rejected = ask(admin, base)
    answer = second.post(f"{base}{rejected['id']}/reject/", {"reason": "Too wide."}).json()
    assert (answer["state"], answer["reason"]) == ("rejected", "Too wide.")
    withdrawn = ask(admin, base)
    assert admin.post(f"{base}{withdrawn['id']}/withdraw/").json()["state"] == "withdrawn"
    assert admin.post(f"{base}{withdrawn['id']}/withdraw/").status_code == 409
    first = ask(admin, base)
    approve(second, base, first)
    closed = {"document": {"version": 1, "rules": []}}
    tomorrow = (timezone.now() + timedelta(days=1)).isoformat().replace("+00:00", "Z")
    planned = ask(admin, base, closed, at=tomorrow)
    assert (planned["state"], planned["activate_at"], planned["needs_approval"]) == ("approved", tomorrow, False)
    assert ask(admin, base, closed, at="2001-01-01T00:00:00Z")["error"]["param"] == "at"
    assert ask(admin, base, closed)["state"] == "active"
    back = admin.post(f"{base}{first['id']}/rollback/", {})
    assert (back.status_code, back.json()["state"], back.json()["version"]) == (201, "requested", 7)
    assert approve(second, base, back.json()).json()["state"] == "active"


def test_the_difference_of_two_versions(admin, second, base):
    first = ask(admin, base)
    approve(second, base, first)
    rule, new = world.POLICY["rules"][0], {"id": "b", "effect": "deny"}
    other = {"version": 1, "strictest": "confidential", "rules": [rule | {"models": ["m"]}, new]}
    made = admin.post(base, {"document": other}).json()
    expected = {
        "id": made["id"],
        "version": 2,
        "against": 1,
        "added": [new],
        "removed": [],
        "changed": [{"id": "all", "before": rule, "after": rule | {"models": ["m"]}}],
        "settings": [{"field": "strictest", "before": None, "after": "confidential"}],
    }
    assert admin.get(f"{base}{made['id']}/diff/").json() == expected
    assert admin.get(f"{base}{made['id']}/diff/?against=1").json() == expected
    assert admin.get(f"{base}{first['id']}/diff/?against=2").json()["removed"] == [new]
    assert error(admin.get(f"{base}{made['id']}/diff/?against=9"))["param"] == "against"
    assert error(admin.get(f"{base}{made['id']}/diff/?version=9"))["param"] == "version"


def test_the_baseline_is_the_platforms_and_everybodys_to_read(root, as_user, admin, second, base):
    world.make_platform()
    place, question = "/api/baseline-policies/", {"data_class": "public", "model": "m"}
    approve(second, base, ask(admin, base))
    nothing = {"document": {"version": 1, "rules": []}}
    assert admin.post(place, nothing).status_code == 403
    assert ask(root, place, nothing)["state"] == "active"
    decided = admin.post(f"{base}decide/", question).json()
    assert (decided["allowed"], decided["rule"], decided["baseline_version"]) == (False, "baseline/default_deny", 2)
    wide = ask(root, place)
    assert (wide["state"], error(approve(root, place, wide))["code"]) == ("requested", "second_person")
    other = as_user(factories.user(is_platform_admin=True))
    assert approve(other, place, wide).json()["state"] == "active"
    assert admin.post(f"{base}decide/", question).json()["allowed"] is True
    assert [version["state"] for version in admin.get(place).json()["data"]] == ["active", "superseded", "draft"]
    text = TEXT + "    projects: [00000000-0000-0000-0000-000000000000]\n"
    problems = admin.post(f"{place}validate/", {"text": text}).json()["problems"]
    assert [(problem["path"], problem["line"]) for problem in problems] == [("/rules/0/projects", 9)]
