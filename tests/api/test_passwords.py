"""A password that somebody else set must be changed before anything else; each person changes his own."""

from __future__ import annotations

import pytest
from rest_framework.test import APIClient

from kasbah.identity import services
from kasbah.identity.api import attempts
from kasbah.identity.api.tenants import UserViewSet
from tests import factories
from tests.api.conftest import error
from tests.factories import SYSTEM, fresh

PASSWORD, OWN = "a long enough passphrase", "another long enough passphrase"
CHANGE = {"current_password": PASSWORD, "new_password": OWN}


@pytest.fixture
def person(db):
    return services.create_user(SYSTEM, email="ada@example.org", password=PASSWORD, is_platform_admin=True)


def log_in(password=PASSWORD):
    client = APIClient(enforce_csrf_checks=True)
    answer = client.post("/api/session/", {"email": "ada@example.org", "password": password})
    assert answer.status_code == 200, answer.content
    client.credentials(HTTP_X_CSRFTOKEN=client.cookies["csrftoken"].value)
    return client


def test_the_first_login_changes_the_password_and_nothing_else(redis, person, monkeypatch):
    client = log_in()
    assert client.get("/api/me/").json()["must_change_password"] is True
    for method, path in (
        ("get", "/api/users/"),
        ("post", "/api/tenants/"),
        ("get", "/api/me/invitations/"),
        ("get", "/api/receipts/req_1/"),
        ("get", "/api/audit-events/"),
    ):
        answer = getattr(client, method)(path)
        assert (answer.status_code, error(answer)["code"]) == (403, "password_change_required"), path
        assert "/api/me/password/" in error(answer)["message"]
    assert client.post("/api/me/password/", CHANGE).status_code == 204
    assert client.get("/api/me/").json()["must_change_password"] is False
    assert client.get("/api/users/").status_code == 200
    assert factories.events_of(None)[-1]["type"] == "user.password_changed"
    services.update_user(fresh(factories.user(is_platform_admin=True)), person, password=PASSWORD)
    again = log_in()
    assert again.get("/api/users/").status_code == 403
    monkeypatch.setattr(UserViewSet, "before_password_change", True, raising=False)
    assert again.get("/api/users/").status_code == 200  # the control: without the gate it opens


def test_a_reset_ends_his_sessions_and_must_be_changed_again(redis, person):
    client = log_in()
    client.post("/api/me/password/", CHANGE)
    services.update_user(fresh(factories.user(is_platform_admin=True)), person, password=PASSWORD)
    assert client.get("/api/me/").status_code == 401
    assert log_in().get("/api/me/").json()["must_change_password"] is True


def test_ones_own_change_ends_the_other_sessions_and_keeps_this_one(redis, person):
    one, other = log_in(), log_in()
    assert one.post("/api/me/password/", CHANGE).status_code == 204
    assert one.get("/api/me/").status_code == 200
    assert other.get("/api/me/").status_code == 401


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({"new_password": OWN}, (400, "invalid_request", "current_password")),
        ({**CHANGE, "current_password": "wrong"}, (403, "wrong_credentials", "current_password")),
        ({**CHANGE, "new_password": PASSWORD}, (400, "invalid_request", "new_password")),
        ({**CHANGE, "new_password": "short"}, (400, "invalid_request", "new_password")),
        ({**CHANGE, "user": "somebody"}, (400, "invalid_request", "user")),
    ],
)
def test_what_is_wrong_is_named_and_changes_nothing(redis, person, body, wrong):
    client = log_in()
    answer = client.post("/api/me/password/", body)
    assert (answer.status_code, error(answer)["code"], error(answer)["param"]) == wrong
    assert PASSWORD not in answer.content.decode()
    assert log_in()


def test_a_session_that_somebody_took_guesses_no_further_than_a_login(redis, person, monkeypatch):
    monkeypatch.setattr(attempts, "BY_ACCOUNT", 3)
    client = log_in()
    wrong = {**CHANGE, "current_password": "a guess that is wrong"}
    codes = [client.post("/api/me/password/", wrong).status_code for _ in range(5)]
    assert codes == [403] * 3 + [429] * 2
    assert [event["type"] for event in factories.events_of(None)][-3:] == ["authentication.login_failed"] * 3


def test_a_key_has_no_password(as_key, home):
    answer = as_key(home.key_text).post("/api/me/password/", CHANGE)
    assert (answer.status_code, error(answer)["code"]) == (403, "person_needed")
