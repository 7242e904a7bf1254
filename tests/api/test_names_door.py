"""Wherever a person gives a name or a text, one that would steer what is printed around it is refused by its field."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from kasbah.common import rls, validation
from kasbah.common.commands import operator
from kasbah.common.errors import Invalid
from kasbah.identity.models import ApiKey, Tenant
from kasbah.residency import document, text
from kasbah.residency.services import holds
from tests import factories
from tests.api import world
from tests.api.conftest import error

STEERING = ("x\x1b[2Jy", "x\ny", "x\ry", "x\u202ey", "x\u200fy", "x\x9by", "x\u2028y", "ad\u200cmin")
NEEDED = ("وزارة المالية", "می\u200cخواهم", "財務省")  # noqa: RUF001
RULES = {
    "version": 1,
    "rules": [{"id": "all", "effect": "allow", "data_classes": ["public"], "models": ["*"], "sites": ["*"]}],
}


def posts(home: factories.Household) -> dict[str, tuple[str, str, dict[str, Any], str]]:
    """What is posted where, by whom, and the field that gets the name."""
    site = {"slug": "s1", "jurisdiction": "FR", "broker_url": "redis://127.0.0.1:1/0"}
    person = {"email": "new@example.org", "password": "correct horse battery staple"}
    at = f"/api/tenants/{home.tenant.slug}"
    forwarder = {"kind": "ocsf_https", "address": "https://127.0.0.1:1/x", "ca_certificate": world.CERTIFICATE}
    return {
        "tenant": ("root", "/api/tenants/", {"slug": "t1"}, "name"),
        "project": ("admin", f"{at}/projects/", {"slug": "p1"}, "name"),
        "user": ("root", "/api/users/", person, "name"),
        "key": ("admin", f"{at}/api-keys/", {"project": str(home.project.id), "scopes": ["inference"]}, "name"),
        "site": ("root", "/api/sites/", site, "name"),
        "forwarder": ("root", "/api/audit-forwarders/", forwarder, "name"),
        "header": ("root", "/api/audit-forwarders/", {"name": "f1", "header_value": "v", **forwarder}, "header_name"),
        "hold": ("admin", f"{at}/legal-holds/", {"reference": "1"}, "reason"),
        "reference": ("admin", f"{at}/legal-holds/", {"reason": "r"}, "reference"),
        "pruning": ("admin", f"{at}/pruning-policies/", {"keep_days": 400}, "reason"),
    }


@pytest.fixture
def post(root: Any, admin: Any, home: factories.Household) -> Callable[[str, str], Any]:
    """Posts one of `posts` with a name."""

    def send(what: str, name: str) -> Any:
        who, path, body, field = posts(home)[what]
        return {"root": root, "admin": admin}[who].post(path, {**body, field: name}, format="json")

    return send


@pytest.mark.parametrize("what", ["tenant", "project", "user", "key", "site", "forwarder", "header", "hold",
                                  "reference", "pruning"])  # fmt: skip
@pytest.mark.parametrize("name", STEERING, ids=ascii)
def test_a_name_that_steers_is_a_400_of_its_field(post: Any, home: Any, what: str, name: str) -> None:
    response = post(what, name)
    assert response.status_code == 400, response.content
    assert error(response)["param"] == posts(home)[what][3]


@pytest.mark.parametrize("what", ["tenant", "project", "user", "key", "site"])
@pytest.mark.parametrize("name", NEEDED)
def test_the_control_a_name_as_people_write_it_is_taken(post: Any, what: str, name: str) -> None:
    response = post(what, name)
    assert response.status_code == 201, response.content
    assert name in json.dumps(response.json(), ensure_ascii=False)


def test_the_control_takes_it_when_the_check_is_off(post: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "first_unprintable", lambda text, **_: None)
    assert post("tenant", STEERING[0]).status_code == 201


@pytest.mark.parametrize("name", STEERING, ids=ascii)
def test_a_changed_name_is_refused_alike(admin: Any, root: Any, home: factories.Household, name: str) -> None:
    for client, path in ((root, f"/api/tenants/{home.tenant.slug}/"), (root, f"/api/users/{home.admin.id}/")):
        response = client.patch(path, {"name": name}, format="json")
        assert (response.status_code, error(response)["param"]) == (400, "name")


@pytest.mark.django_db
@pytest.mark.parametrize("reason", STEERING, ids=ascii)
def test_a_reason_is_refused_alike(home: factories.Household, reason: str) -> None:
    asker = factories.fresh(home.admin)
    hold = holds.place_hold(asker, home.tenant, holds.Reach(request_id="req_1"), reason="R", reference="1")
    with pytest.raises(Invalid) as refused:
        holds.request_release(asker, hold, reason)
    assert refused.value.param == "reason"
    with pytest.raises(Invalid):
        validation.check_reason(reason)


@pytest.mark.parametrize("name", [name for name in STEERING if "\n" not in name], ids=ascii)
def test_a_policys_texts_are_refused_with_their_place(name: str) -> None:
    described = RULES | {"description": name}
    assert [problem.path for problem in document.validate(described)] == ["/description"]
    keyed = RULES | {"rules": [RULES["rules"][0] | {name: 1}]}  # type: ignore[index]
    assert document.validate(keyed)
    assert all(str(problem).isprintable() for problem in document.validate(keyed))
    _, problems = text.validate_text(f"version: 1\n# {name}\nrules: []\n")
    assert problems
    assert all(str(problem).isprintable() for problem in problems)


def test_a_policy_of_several_lines_with_a_description_in_persian_is_taken() -> None:
    parsed, _ = text.parse(f"version: 1\r\n# {NEEDED[1]}\r\ndescription: {NEEDED[0]}\r\nrules: []\n")
    assert parsed["description"] == NEEDED[0]
    assert document.validate(RULES | {"description": NEEDED[1]}) == []


@pytest.mark.django_db
def test_a_name_that_is_stored_already_cannot_forge_a_line_of_a_listing(home: factories.Household) -> None:
    with rls.tenant_scope(home.tenant.id):
        ApiKey.objects.filter(pk=home.key.pk).update(name="x\nforged  active\x1b[2J\u202e")
    with rls.platform_scope():
        Tenant.objects.filter(pk=home.tenant.pk).update(name="y\x9b\u2066")
    for arguments in (["--json"], []):
        out = io.StringIO()
        call_command("auditlog", "status", *arguments, stdout=out)
        assert "\x1b" not in out.getvalue()
    from kasbah.common.commands import table

    with rls.tenant_scope(home.tenant.id):
        printed = table([{"name": row.name} for row in ApiKey.objects.filter(pk=home.key.pk)], "none")
    assert printed.splitlines()[1] == r"x\nforged  active\x1b[2J\u202e"


@pytest.mark.django_db
def test_a_commands_error_is_one_line_without_controls() -> None:
    with pytest.raises(CommandError) as refused:
        call_command("createtenant", "--slug", "a", "--name", "x\x1b[2J\u202e")
    assert "U+001B" in str(refused.value)
    assert str(refused.value).isprintable()


def test_the_login_name_cannot_bring_lines_into_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "x\nroot\x1b" + "y" * 500)
    assert operator().isprintable()
    assert len(operator()) <= 64


def test_an_argument_with_a_control_character_is_wrong_usage() -> None:
    for program in (["manage.py", "createtenant", "--slug", "a", "--name"], ["-m", "inference_worker", "--site"],
                    ["-m", "infra.local", "status"]):  # fmt: skip
        for word, says in ((b"x\xff", "not UTF-8"), (b"x\x1by", "control character")):
            ended = subprocess.run(
                [sys.executable, *program, os.fsdecode(word)], capture_output=True, text=True, timeout=60, check=False
            )
            assert ended.returncode == 2, ended.stderr
            assert says in ended.stderr
            assert "Traceback" not in ended.stderr
            assert "\x1b" not in ended.stderr
