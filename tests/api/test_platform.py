"""Sites, models, deployments, workers, policies, limits, usage, jobs and receipts over the management API."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from inference_worker.contract.signing import unb64
from kasbah.common import rls
from kasbah.metering.models import Usage
from kasbah.residency.services import Look, note_health
from kasbah.serving.models import EnrolmentToken, Worker
from tests import factories
from tests.api import world
from tests.api.conftest import error
from tests.registry import folders


@pytest.fixture
def platform(db):
    return world.make_platform()


@pytest.fixture
def estate(platform):
    return world.make_estate(platform)


def test_a_sites_broker_address_is_never_shown(root):
    body = {"slug": "paris", "name": "Paris", "jurisdiction": "FR", "broker_url": "redis://:hunter2@127.0.0.1:1/0"}
    made = root.post("/api/sites/", body)
    assert made.status_code == 201, made.content
    moved = root.patch(f"/api/sites/{made.json()['id']}/", {"broker_url": "redis://:hunter3@127.0.0.1:2/0"})
    assert moved.status_code == 200
    for answer in (made, moved, root.get("/api/sites/?slug=paris"), root.get("/api/audit-events/")):
        assert b"hunter" not in answer.content
    wrong = root.post("/api/sites/", body | {"slug": "b", "broker_url": "http://:hunter2@x"})
    assert error(wrong)["param"] == "broker_url"
    assert b"hunter" not in wrong.content


def test_a_sites_life_and_what_was_found_there(root, platform):
    one = f"/api/sites/{platform.ids['sites']}/"
    assert (root.get(one).json()["state"], root.get(one).json()["health"]) == ("active", None)
    note_health(platform.site, Look(broker="AccessRefused", workers=2, alive=1, capacity=8, running=3))
    found = root.get(one).json()["health"]
    assert found.pop("checked_at") == found.pop("since")
    assert found == {
        "life": "unreachable", "broker_state": "AccessRefused", "store_state": "ok", "workers": 2, "alive": 1,
        "capacity": 8, "running": 3, "troubles": [],
    }  # fmt: skip
    for verb, state in (("cordon", "cordoned"), ("drain", "drained"), ("resume", "active")):
        assert root.post(f"{one}{verb}/").json()["state"] == state
        assert root.post(f"{one}{verb}/").status_code == 409
    amqp = {"slug": "b", "name": "B", "jurisdiction": "FR", "broker_url": "amqp://u:hunter2@127.0.0.1:1//"}
    alone = root.post("/api/sites/", amqp)
    assert (alone.status_code, error(alone)["param"]) == (400, "store_url")
    made = root.post("/api/sites/", amqp | {"store_url": "redis://:hunter3@127.0.0.1:1/0"})
    assert (made.status_code, made.json()["own_store"]) == (201, True)
    wrong = root.patch(f"/api/sites/{made.json()['id']}/", {"store_url": ""})
    assert error(wrong)["param"] == "store_url"
    for answer in (alone, made, wrong, root.get("/api/sites/"), root.get("/api/audit-events/")):
        assert b"hunter" not in answer.content


def test_a_worker_that_waits_is_approved_by_its_fingerprint(root, platform):
    one = f"/api/workers/{platform.ids['workers']}/"
    Worker.objects.filter(pk=platform.worker.pk).update(state="pending")
    shown = root.get(one).json()
    assert (shown["state"], shown["alive"], shown["capacity"]) == ("pending", False, 0)
    assert error(root.post(f"{one}approve/", {"fingerprint": "0000"}))["code"] == "wrong_fingerprint"
    assert error(root.post(f"{one}cordon/"))["code"] == "worker_pending"
    assert root.post(f"{one}approve/", {"fingerprint": shown["fingerprint"]}).json()["state"] == "enrolled"
    assert root.post(f"{one}reject/").status_code == 409
    token = root.post("/api/enrolment-tokens/", {"site": platform.ids["sites"], "preapproved": True}).json()
    assert token["preapproved"] is True
    assert root.post("/api/enrolment-tokens/", {"site": platform.ids["sites"]}).json()["preapproved"] is False


@pytest.fixture
def import_dir(settings, tmp_path):
    settings.IMPORT_DIR = str(tmp_path)
    return tmp_path


def test_from_a_folder_to_a_granted_deployment(root, as_user, platform, home, import_dir):
    folders.model(import_dir / "mixtral")
    body = {"folder": "mixtral", "name": "mixtral", "publisher": "M", "licence": "Apache-2.0", "family": "mixtral"}
    version = root.post("/api/versions/", body)
    assert version.status_code == 201, version.content
    path = f"/api/versions/{version.json()['id']}/"
    deployment = {"name": "mixtral", "model_version": version.json()["id"], "sites": [platform.ids["sites"]]}
    assert root.post("/api/deployments/", deployment).status_code == 409
    seen = {"digest": version.json()["approval_digest"]}
    assert error(root.post(f"{path}approve/"))["param"] == "digest"
    assert error(root.post(f"{path}approve/", seen))["code"] == "second_person"
    second = as_user(factories.user(is_platform_admin=True))
    assert second.post(f"{path}approve/", seen).json()["stage"] == "approved"
    made = root.post("/api/deployments/", deployment)
    assert made.status_code == 201, made.content
    grants = f"/api/tenants/{home.tenant.slug}/grants/"
    granted = root.post(grants, {"deployment": made.json()["id"]})
    assert granted.json()["name"] == "mixtral"
    assert root.delete(f"{grants}{granted.json()['id']}/").status_code == 204
    one = f"/api/deployments/{made.json()['id']}/"
    assert root.patch(one, {"enabled": False}).json()["enabled"] is False
    settings_of = root.patch(one, {"engine_settings": {"max_num_seqs": 0}})
    assert error(settings_of)["param"] == "engine_settings.max_num_seqs"
    assert error(root.patch(one, {"sites": [world.random_id()]}))["param"] == "sites[0]"


@pytest.mark.parametrize("folder", ["..", "/etc", "../outside", "link", "", ".", "none", "a\\..\\b", "x" * 500])
def test_only_folders_of_the_import_directory_come_in(root, settings, tmp_path, folder):
    (tmp_path / "in").mkdir()
    folders.model(tmp_path / "outside")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "outside")
    settings.IMPORT_DIR = str(tmp_path / "in")
    body = {"folder": folder, "name": "m", "publisher": "M", "licence": "L", "family": "f"}
    answer = root.post("/api/versions/", body)
    assert (answer.status_code, error(answer)["param"]) == (400, "folder")
    settings.IMPORT_DIR = ""
    assert "KASBAH_IMPORT_DIR" in error(root.post("/api/versions/", body | {"folder": "link"}))["message"]


def test_a_deployment_that_is_not_granted_does_not_exist_for_a_tenant(as_user, as_key, platform, estate, home):
    path = f"/api/deployments/{platform.ids['deployments']}/"
    key = factories.api_key(home.project, scopes=("management:read",))[1]
    for stranger in (as_user(home.admin), as_key(key)):
        assert stranger.get("/api/deployments/").json()["data"] == []
        assert stranger.get(path).content == stranger.get(f"/api/deployments/{world.random_id()}/").content
    member = as_user(estate.household.admin)
    assert member.get(path).status_code == 200
    assert [item["id"] for item in member.get("/api/deployments/").json()["data"]] == [platform.ids["deployments"]]


def test_workers_join_by_a_token_that_is_shown_once_and_are_drained_and_revoked(root, platform):
    made = root.post("/api/enrolment-tokens/", {"site": platform.ids["sites"]})
    assert made.json()["token"].startswith("kse_")
    shown = root.get(f"/api/enrolment-tokens/{made.json()['id']}/")
    assert made.json()["token"].encode() not in shown.content
    assert len(root.get("/api/enrolment-tokens/?usable=true").json()["data"]) == 2
    EnrolmentToken.objects.filter(pk=made.json()["id"]).update(used_by=platform.worker)
    assert len(root.get("/api/enrolment-tokens/?usable=true").json()["data"]) == 1
    assert len(root.get("/api/enrolment-tokens/?usable=false").json()["data"]) == 1
    one = f"/api/workers/{platform.ids['workers']}/"
    assert root.post(f"{one}drain/").json()["state"] == "drained"
    assert root.post(f"{one}drain/").status_code == 409
    assert root.post(f"{one}resume/").json()["state"] == "enrolled"
    assert root.post(f"{one}revoke/").json()["state"] == "revoked"
    assert root.post(f"{one}resume/").status_code == 409
    assert [worker["state"] for worker in root.get("/api/workers/?state=revoked").json()["data"]] == ["revoked"]
    assert Worker.objects.get(pk=platform.worker.pk).state == "revoked"


def test_a_limit_is_set_replaced_and_removed(admin, home):
    base = f"/api/tenants/{home.tenant.slug}/limits/"
    body = {"scope": "project", "subject_id": str(home.project.id), "requests_per_minute": 5}
    assert admin.post(base, body).status_code == 201
    made = admin.post(base, body | {"requests_per_minute": 7, "tokens_per_period": 10**12, "period": "day"}).json()
    assert [limit["requests_per_minute"] for limit in admin.get(base).json()["data"]] == [7]
    assert admin.delete(f"{base}{made['id']}/").status_code == 204
    assert admin.get(base).json()["data"] == []
    assert error(admin.post(base, body | {"requests_per_minute": -1}))["param"] == "requests_per_minute"


def test_the_limit_of_the_whole_tenant_is_set_by_the_platform_alone(root, admin, home, as_key):
    base = f"/api/tenants/{home.tenant.slug}/limits/"
    body = {"scope": "tenant", "subject_id": str(home.tenant.id), "requests_per_minute": 5}
    made = root.post(base, body).json()
    _, text = factories.api_key(home.project, scopes=("management",), role="tenant_admin")
    for client in (admin, as_key(text)):
        assert client.post(base, body | {"requests_per_minute": 10**9}).status_code == 403
        assert client.delete(f"{base}{made['id']}/").status_code == 403
        assert [row["requests_per_minute"] for row in client.get(base).json()["data"]] == [5]
    assert root.delete(f"{base}{made['id']}/").status_code == 204


def test_usage_adds_up(as_user, estate):
    client = as_user(estate.household.admin)
    base = f"/api/tenants/{estate.slug}/usage/"
    with rls.tenant_scope(estate.household.tenant.id):
        row = Usage.objects.get()
        row.id = world.uuid7()
        row.save(force_insert=True)
    for by, group in (("day", row.created_at.date().isoformat()), ("deployment", row.deployment)):
        groups = client.get(f"{base}summary/?by={by}").json()["groups"]
        assert groups == [{"group": group, "requests": 2, "prompt_tokens": 6, "completion_tokens": 10}]
    assert client.get(f"{base}summary/?since=2999-01-01T00:00:00Z").json() == {"groups": []}
    assert len(client.get(f"{base}?deployment={row.deployment}&until=2999-01-01T00:00:00Z").json()["data"]) == 2
    assert error(client.get(f"{base}summary/?colour=red"))["param"] == "colour"


def test_jobs_are_found_by_what_is_known_of_them(as_user, estate, platform):
    client = as_user(estate.household.admin)
    base = f"/api/tenants/{estate.slug}/jobs/"
    for query in (
        f"request_id={estate.request_id}",
        "state=succeeded&data_class=public",
        f"model={platform.deployment.name}&site={platform.site.slug}",
    ):
        found = client.get(f"{base}?{query}").json()["data"]
        assert [job["id"] for job in found] == [estate.ids["jobs"]], query
        assert "payload" not in found[0]
    assert client.get(f"{base}?state=failed").json()["data"] == []


def test_a_receipt_can_be_verified_with_what_it_comes_with(as_key, estate, platform):
    answer = as_key(estate.household.key_text).get(f"/api/receipts/{estate.request_id}/").json()
    _, payload, signature = answer["receipt"].split(".")
    public = Ed25519PublicKey.from_public_bytes(unb64(answer["worker"]["public_key"]))
    public.verify(unb64(signature), answer["purpose"].encode() + b"\n" + unb64(payload))
    assert answer["claims"]["job"] == answer["job"] == estate.ids["jobs"]
    assert answer["site"] == {"id": str(platform.site.id), "slug": platform.site.slug, "jurisdiction": "FR"}
    assert len(answer["control_plane_keys"]) == 2


def test_reading_the_audit_log_is_recorded_in_it(as_user, estate):
    auditor = factories.user()
    factories.membership(estate.household.tenant, auditor, "auditor")
    client = as_user(auditor)
    base = f"/api/tenants/{estate.slug}/audit-events/"
    listed = client.get(f"{base}?type=policy.activated").json()["data"]
    assert [event["event"]["type"] for event in listed] == ["policy.activated"]
    assert client.get(f"{base}{listed[0]['id']}/").json() == listed[0]
    reads = [event for event in factories.events_of(estate.household.tenant.id) if event["type"] == "audit.read"]
    assert [read["details"]["events"] for read in reads] == [1, 1]
    assert {read["actor"]["id"] for read in reads} == {str(auditor.id)}


def test_the_installations_own_events_are_the_platform_administrators(root, admin, platform):
    listed = root.get("/api/audit-events/?type=site.created")
    assert [event["type"] for event in listed.json()["data"]] == ["site.created"]
    assert factories.events_of(None)[-1]["type"] == "audit.read"
    assert admin.get("/api/audit-events/").status_code == 403
