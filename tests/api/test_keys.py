"""Keys by API and command: public halves for everybody, rotation for platform administrators, who is behind."""

from __future__ import annotations

import io
import json

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from rest_framework.test import APIClient

from inference_worker.contract.signing import key_id, unb64
from kasbah.residency.models import SigningKey, SiteKey
from kasbah.residency.services import control_keys
from kasbah.serving.models import Worker
from tests.api import world


@pytest.fixture
def platform(db):
    """One of everything, and its worker is heard."""
    made = world.make_platform()
    current = control_keys().current.key_id
    held = [key.key_id for key in SiteKey.objects.filter(site=made.site)]
    Worker.objects.filter(pk=made.worker.pk).update(last_seen_at=timezone.now(), trusted_keys=[current], held_keys=held)
    return made


def run(*arguments):
    """The command's JSON."""
    out = io.StringIO()
    call_command("rotatekeys", *arguments, "--json", stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())


def test_whoever_checks_a_receipt_needs_no_account_for_the_keys(platform):
    answer = APIClient().get("/api/signing-keys/")
    assert answer.status_code == 200
    [key] = answer.json()["data"]
    assert key_id(unb64(key["public_key"])) == key["key_id"] == control_keys().current.key_id
    assert set(key) == {"id", "key_id", "public_key", "state", "created_at", "current_at", "retired_at"}
    box = bytes(SigningKey.objects.get().private_key_sealed)
    assert box.hex() not in answer.content.decode()
    assert APIClient().post("/api/signing-keys/").status_code in {401, 403}


def test_a_rotation_by_api_says_who_is_behind(root, platform):
    client = root
    following = client.post("/api/signing-keys/").json()
    assert following["state"] == "next"
    assert client.post("/api/signing-keys/").status_code == 409
    shown = client.get("/api/signing-keys/rotation/").json()
    assert (shown["following"], shown["acknowledged"]) == (following["key_id"], [])
    assert [worker["name"] for worker in shown["missing"]] == [platform.worker.name]
    forced = client.post("/api/signing-keys/rotation/").json()
    assert [worker["id"] for worker in forced["missing"]] == [str(platform.worker.id)]
    states = {key["key_id"]: key["state"] for key in APIClient().get("/api/signing-keys/").json()["data"]}
    assert states == {shown["current"]: "retired", following["key_id"]: "current"}
    current = SigningKey.objects.get(state="current")
    assert client.post(f"/api/signing-keys/{current.id}/revoke/").status_code == 409
    assert client.post("/api/signing-keys/rotation/").status_code == 409, "there is no next key"


def test_a_sites_key_by_api(root, platform):
    client, place = root, f"/api/sites/{platform.site.id}/keys/"
    before = client.get(place).json()
    assert (before["following"], before["missing"]) == ("", [])
    following = client.post(place).json()["following"]
    assert [worker["name"] for worker in client.get(place).json()["missing"]] == [platform.worker.name]
    assert client.post(f"{place}switch/").json()["following"] == following
    shown = client.get(f"/api/sites/{platform.site.id}/").json()
    assert key_id(unb64(shown["sealing_public_key"])) == following


def test_the_command_waits_and_says_for_whom(platform):
    with pytest.raises(CommandError, match=rf"1 live workers .*\({platform.worker.name} "):
        run("ticket", "--wait", "1")
    status = run("ticket", "--status")
    assert status["missing"] == [f"{platform.worker.name} ({platform.site.slug})"]
    forced = run("ticket", "--force")
    assert forced["would_refuse"] == status["missing"]
    assert forced["current"] == status["next"]
    assert run("ticket", "--revoke", status["current"])["state"] == "revoked"
    assert run("worker", "--worker", str(platform.worker.id))["waits_for_the_worker"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("site",), "Name the site"),
        (("site", "--site", "nowhere"), "no site nowhere"),
        (("worker",), "Name it"),
        (("worker", "--worker", "0199c1f2-7a3b-7c4d-8e5f-0123456789ab"), "no worker"),
        (("ticket", "--revoke", "0123456789abcdef"), "no signing key"),
    ],
)
def test_what_it_does_not_know_is_said(platform, arguments, message):
    with pytest.raises(CommandError, match=message):
        run(*arguments)
