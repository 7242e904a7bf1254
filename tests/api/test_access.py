"""How a management request proves who sends it, and what every answer has in common."""

from __future__ import annotations

import re

import pytest
from django.db import OperationalError
from django.test import Client
from rest_framework.test import APIClient

from kasbah.common.errors import RateLimited
from kasbah.common.parsing import BODY_LIMIT
from kasbah.identity import services
from kasbah.identity.api import attempts
from tests import factories
from tests.api.conftest import error

PASSWORD = "a long enough passphrase"


@pytest.fixture
def person(db):
    return services.create_user(factories.SYSTEM, email="ada@example.org", password=PASSWORD, name="Ada")


@pytest.fixture
def browser(redis):
    """A client with the CSRF cookie, before anybody logged in; the store of attempts is empty."""
    client = APIClient(enforce_csrf_checks=True)
    assert client.get("/api/session/").status_code == 401
    client.credentials(HTTP_X_CSRFTOKEN=client.cookies["csrftoken"].value)
    return client


def test_logging_in_and_out(browser, person):
    before = browser.cookies.get("sessionid")
    answer = browser.post("/api/session/", {"email": "ADA@example.org", "password": PASSWORD})
    assert answer.status_code == 200, answer.content
    assert answer.json()["name"] == person.email
    assert answer.cookies["sessionid"]["httponly"]
    assert before is None
    assert browser.get("/api/me/").json() == answer.json()
    browser.credentials(HTTP_X_CSRFTOKEN=browser.cookies["csrftoken"].value)
    assert browser.delete("/api/session/").status_code == 204
    assert browser.get("/api/me/").status_code == 401
    assert [event["type"] for event in factories.events_of(None) if event["actor"]["id"] == str(person.id)] == [
        "authentication.login_succeeded",
        "authentication.logout",
    ]


@pytest.mark.parametrize("email", ["ada@example.org", "nobody@example.org", "\u0130@example.org"])
def test_a_failed_login_tells_nothing_and_stays_recorded(browser, person, email):
    before = len(factories.events_of(None))
    answer = browser.post("/api/session/", {"email": email, "password": "wrong"})
    assert (answer.status_code, error(answer)["message"]) == (401, "The e-mail address or the password is wrong.")
    (event,) = factories.events_of(None)[before:]
    assert event["type"] == "authentication.login_failed"
    assert event["request_id"] == answer["x-request-id"]
    assert email not in str(event)


def test_who_is_switched_off_cannot_log_in_nor_go_on(browser, person):
    assert browser.post("/api/session/", {"email": person.email, "password": PASSWORD}).status_code == 200
    person.is_active = False
    person.save()
    assert browser.get("/api/me/").status_code == 401
    browser.credentials(HTTP_X_CSRFTOKEN=browser.cookies["csrftoken"].value)
    assert browser.post("/api/session/", {"email": person.email, "password": PASSWORD}).status_code == 401


def test_guessing_is_slowed_down_even_for_the_right_password(browser, person):
    codes = [
        browser.post("/api/session/", {"email": person.email, "password": f"guess {n}"}).status_code for n in range(12)
    ]
    assert codes == [401] * 10 + [429] * 2
    answer = browser.post("/api/session/", {"email": person.email, "password": PASSWORD})
    assert answer.status_code == 429
    assert 1 <= int(answer["Retry-After"]) <= 900


def test_logging_in_fails_closed_when_attempts_cannot_be_counted(browser, person, valkey_server):
    valkey_server.kill()
    try:
        answer = browser.post("/api/session/", {"email": person.email, "password": PASSWORD})
        assert answer.status_code == 503
    finally:
        valkey_server.restart()


def test_a_session_cannot_write_without_the_csrf_token(admin, home):
    path = f"/api/tenants/{home.tenant.slug}/projects/"
    admin.credentials()
    answer = admin.post(path, {"slug": "forged", "name": "Forged"})
    assert answer.status_code == 403
    assert "CSRF" in error(answer)["message"]


LOGIN = {"email": "ada@example.org", "password": PASSWORD}


def test_logging_in_works_as_documented_with_no_token_and_nothing_before(redis, person):
    client = APIClient(enforce_csrf_checks=True)
    answer = client.post("/api/session/", LOGIN)
    assert answer.status_code == 200, answer.content
    client.credentials(HTTP_X_CSRFTOKEN=client.cookies["csrftoken"].value)
    assert client.delete("/api/session/").status_code == 204


def test_logging_in_again_takes_the_place_of_a_session_that_is_there(redis, person):
    client = APIClient(enforce_csrf_checks=True)
    services.create_user(factories.SYSTEM, email="grace@example.org", password=PASSWORD)
    assert client.post("/api/session/", LOGIN).status_code == 200
    first = client.cookies["sessionid"].value
    client.credentials(HTTP_AUTHORIZATION="Bearer ksb_nonsense")  # nor does a wrong proof stand in the way
    assert client.post("/api/session/", LOGIN | {"email": "grace@example.org"}).status_code == 200
    assert client.cookies["sessionid"].value != first
    client.credentials()
    assert client.get("/api/me/").json()["name"] == "grace@example.org"


@pytest.mark.parametrize(
    "headers",
    [
        {"HTTP_ORIGIN": "https://evil.example"},
        {"HTTP_ORIGIN": "null"},
        {"HTTP_SEC_FETCH_SITE": "cross-site"},
        {"HTTP_SEC_FETCH_SITE": "same-site"},
    ],
)
def test_a_page_of_another_origin_logs_nobody_in(redis, person, headers, monkeypatch):
    from kasbah.identity.api import session

    client = APIClient(enforce_csrf_checks=True)
    answer = client.post("/api/session/", LOGIN, **headers)
    assert (answer.status_code, "CSRF" in error(answer)["message"]) == (403, True)
    assert "sessionid" not in client.cookies
    monkeypatch.setattr(session, "refuse_foreign_page", lambda request: None)  # the control: without it, it does
    assert client.post("/api/session/", LOGIN, **headers).status_code == 200


def test_a_page_of_our_own_and_a_form_that_another_site_can_send(redis, person):
    client = APIClient(enforce_csrf_checks=True)
    own = {"HTTP_ORIGIN": "http://testserver", "HTTP_SEC_FETCH_SITE": "same-origin"}
    assert client.post("/api/session/", LOGIN, **own).status_code == 200
    for media in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        # what a page may send across origins without asking
        answer = APIClient().generic("POST", "/api/session/", b'{"email": "a", "password": "b"}', content_type=media)
        assert answer.status_code == 415, media


def test_who_knows_the_password_is_not_slowed_down(redis, person):
    """An office shares an address: 60 good logins a quarter of an hour are 60 good logins."""
    codes = {APIClient().post("/api/session/", LOGIN).status_code for _ in range(attempts.BY_ADDRESS + 10)}
    assert codes == {200}


def test_good_logins_between_guesses_do_not_wipe_the_guesses_of_the_address(redis, person, monkeypatch):
    monkeypatch.setattr(attempts, "BY_ADDRESS", 5)
    codes = []
    for number in range(7):
        guess = {"email": f"nobody-{number}@example.org", "password": "wrong"}
        codes.append(APIClient().post("/api/session/", guess).status_code)
        if number < 5:
            APIClient().post("/api/session/", LOGIN)
    assert codes == [401] * 5 + [429] * 2


def test_many_guesses_at_once_get_no_further_than_one_after_the_other(redis, person):
    """The control of counting before looking: none is checked beyond the tenth, however many come together."""
    email, counted = "grace@example.org", []
    for _ in range(30):  # all taken, none of them answered yet
        try:
            attempts.take("192.0.2.1", email)
            counted.append(True)
        except RateLimited:
            counted.append(False)
    assert sum(counted) == attempts.BY_ACCOUNT


@pytest.mark.parametrize(
    "value",
    ["Bearer", "Bearer ", "Bearer ksb_nonsense", "Bearer " + "k" * 5000, "bearer ksb_" + "0" * 38, "Bearer ksb_\u00e9"],
)
def test_a_bad_key_is_401_and_is_never_taken_for_a_session(admin, value):
    admin.credentials(HTTP_AUTHORIZATION=value)
    answer = admin.get("/api/me/")
    assert answer.status_code == 401
    assert answer["WWW-Authenticate"].startswith("Bearer")
    error(answer)


def test_an_inference_key_cannot_manage(home, as_key):
    client = as_key(home.key_text)
    assert client.get("/api/me/").json()["scopes"] == ["inference"]
    answer = client.get(f"/api/tenants/{home.tenant.slug}/projects/")
    assert answer.status_code == 403
    assert "management:read" in error(answer)["message"]


def test_every_answer_has_an_id_of_our_own_making(admin):
    answers = [
        admin.get(path, HTTP_X_REQUEST_ID="mine") for path in ("/api/me/", "/api/none/", "/nothing", "/api/docs/")
    ]
    ids = {answer["x-request-id"] for answer in answers}
    assert len(ids) == len(answers)
    assert all(re.fullmatch(r"req_[0-9a-f]{32}", ident) for ident in ids)


def test_the_events_of_a_request_carry_its_id(admin, home):
    answer = admin.post(f"/api/tenants/{home.tenant.slug}/projects/", {"slug": "p", "name": "P"})
    assert factories.events_of(home.tenant.id)[-1]["request_id"] == answer["x-request-id"]


@pytest.mark.parametrize("path", ["/api/none/", "/api/none", "/elsewhere", "/api/users/not-a-uuid/"])
def test_what_does_not_exist_is_answered_in_json(admin, path):
    answer = admin.get(path)
    assert (answer.status_code, error(answer)["code"]) == (404, "not_found")


def test_the_slash_at_the_end_is_optional_for_every_method(root):
    assert root.post("/api/tenants", {"slug": "slashless", "name": "x"}).status_code == 201
    assert root.get("/api/tenants/slashless").status_code == 200


def test_methods_that_do_not_exist_are_405_with_what_does(admin, home):
    answer = admin.put(f"/api/tenants/{home.tenant.slug}/projects/", {})
    assert (answer.status_code, error(answer)["code"]) == (405, "method_not_allowed")
    assert answer["Allow"] == "GET, HEAD, POST"
    assert admin.options("/api/me/").status_code == 405


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"\xff", 400),
        (b'{"slug": "a", "slug": "b", "name": "x"}', 400),
        (b'{"slug": NaN}', 400),
        (b'{"slug": "a", "name": "\\u0000"}', 400),
        (b'{"slug": "a", "name": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b'{"slug": ' + b"9" * 10_000 + b"}", 400),
        (b'"' + b"x" * BODY_LIMIT + b'"', 413),
    ],
)
def test_hostile_bodies_are_refused(admin, home, body, status):
    path = f"/api/tenants/{home.tenant.slug}/projects/"
    answer = admin.generic("POST", path, body, content_type="application/json")
    assert answer.status_code == status
    error(answer)


def test_other_media_types_are_415_and_406(admin, home):
    path = f"/api/tenants/{home.tenant.slug}/projects/"
    answer = admin.generic("POST", path, b"slug=a", content_type="application/x-www-form-urlencoded")
    assert (answer.status_code, error(answer)["code"]) == (415, "unsupported_media_type")
    assert admin.get(path, HTTP_ACCEPT="image/png").status_code == 406


def test_what_nobody_foresaw_is_a_500_that_tells_nothing(admin, home, monkeypatch, caplog):
    def fail(*args, **kwargs):
        raise RuntimeError("the secret inside")

    monkeypatch.setattr(services, "create_project", fail)
    answer = admin.post(f"/api/tenants/{home.tenant.slug}/projects/", {"slug": "p", "name": "P"})
    assert answer.status_code == 500
    assert "secret" not in answer.content.decode()
    assert "the secret inside" in caplog.text  # a person finds it in the log
    assert answer["x-request-id"] in caplog.text


def test_a_database_that_is_away_is_503_with_when_to_try_again(admin, home, monkeypatch):
    def fail(slug):
        raise OperationalError("connection to 10.0.0.7 refused")

    monkeypatch.setattr(services, "find_tenant", fail)
    answer = admin.get(f"/api/tenants/{home.tenant.slug}/projects/")
    assert (answer.status_code, answer["Retry-After"]) == (503, "2")
    assert "10.0.0.7" not in answer.content.decode()


def test_a_handler_that_fails_leaves_nothing_behind(admin, home, monkeypatch):
    """The scope is one transaction: a project whose answer failed does not exist."""
    from kasbah.identity.api.tenants import ProjectViewSet

    def fail(self, *args, **kwargs):
        raise RuntimeError

    monkeypatch.setattr(ProjectViewSet, "shown", fail)
    path = f"/api/tenants/{home.tenant.slug}/projects/"
    before = len(admin.get(path).json()["data"])
    assert admin.post(path, {"slug": "half", "name": "Half"}).status_code == 500
    assert len(admin.get(path).json()["data"]) == before


def test_a_view_that_declares_nothing_is_denied_to_everybody(root, monkeypatch):
    from kasbah.identity.api.tenants import TenantViewSet

    assert root.get("/api/tenants/").status_code == 200
    monkeypatch.setattr(TenantViewSet, "access", {})
    assert root.get("/api/tenants/").status_code == 403


def test_messages_are_in_english_whatever_the_browser_speaks(admin, home):
    answer = admin.post(f"/api/tenants/{home.tenant.slug}/projects/", {}, HTTP_ACCEPT_LANGUAGE="fr")
    assert error(answer)["message"] == "This field is required."


def test_no_answer_is_kept_by_what_lies_between(admin, home):
    for path in ("/api/me/", f"/api/tenants/{home.tenant.slug}/api-keys/", "/api/users/"):
        assert admin.get(path)["Cache-Control"] == "no-store"


@pytest.mark.django_db
def test_the_browsable_pages_work_and_need_no_other_machine(admin, home):
    paths = ["/api/docs/", "/api/me/", f"/api/tenants/{home.tenant.slug}/projects/", "/api/session/"]
    for path in paths:
        answer = admin.get(path, HTTP_ACCEPT="text/html")
        assert answer.status_code == 200, path
        page = answer.content.decode()
        loaded = re.findall(r'(?:src|href)="([^"#]+)"', page)
        scripts = [url for url in loaded if re.search(r"\.(js|css|png|ico)$", url)]
        assert scripts
        assert all(url.startswith("/static/") for url in scripts), scripts
        for url in scripts:
            found = Client().get(url)
            assert found.status_code == 200, url
            assert sum(map(len, found)) > 0
