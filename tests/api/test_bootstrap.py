"""`manage.py bootstrap_demo`: everything that the demonstration needs, and nothing twice."""

from __future__ import annotations

import io
import json
import stat

import pytest
from django.core.management import CommandError, call_command

from kasbah.common import rls
from kasbah.identity import services
from kasbah.identity.models import ApiKey, Tenant, User
from kasbah.residency.models import Site
from kasbah.residency.services import broker_url, explain
from kasbah.serving.models import DeploymentGrant, Worker
from tests import factories
from tests.registry import folders

pytestmark = pytest.mark.django_db


@pytest.fixture
def bootstrap(tmp_path, settings):
    settings.MODELS_DIR = str(tmp_path / "models")
    folder = folders.model(tmp_path / "built")

    def run(*arguments):
        out, notes = io.StringIO(), io.StringIO()
        everything = ("--model-dir", str(folder), "--broker", "redis://127.0.0.1:1/0", *arguments, "--json")
        call_command("bootstrap_demo", *everything, stdout=out, stderr=notes)
        return json.loads(out.getvalue())

    return run


def test_everything_is_there_after_one_run(bootstrap):
    facts = bootstrap()
    assert (facts["tenant"], facts["site"], facts["jurisdiction"], facts["model"]) == (
        "demo",
        "local",
        "FR",
        "smollm2-moe",
    )
    principal = services.authenticate_key(facts["api_key"])
    assert principal.scopes == {"inference", "management:read"}
    assert User.objects.get(email=facts["admin_email"]).check_password(facts["admin_password"])
    tenant = Tenant.objects.none()
    with rls.platform_scope():
        tenant = Tenant.objects.get(slug="demo")
        assert DeploymentGrant.objects.filter(tenant=tenant).count() == 1
    for data_class, allowed in (("public", True), ("internal", True), ("confidential", True), ("secret", False)):
        assert explain(tenant, data_class=data_class, model=facts["model"]).allowed is allowed
    assert facts["enrol_token"].startswith("kse_")
    approval = next(event for event in factories.events_of(None) if event["type"] == "model.approved")
    assert approval["details"] == {"bootstrap": True}
    activation = next(event for event in factories.events_of(tenant.id) if event["type"] == "policy.activated")
    assert activation["details"] == {"version": 1, "superseded": 0, "bootstrap": True}


def test_a_second_run_makes_nothing_and_tells_no_secret(bootstrap):
    first = bootstrap("--jurisdiction", "DE")
    Worker.objects.create(site=Site.objects.get(), name="node", public_key=b"k" * 32, state="enrolled")
    before = len(factories.events_of(None))
    second = bootstrap("--jurisdiction", "JP")
    assert second == {name: first[name] for name in first.keys() - {"api_key", "admin_password", "enrol_token"}}
    assert second["jurisdiction"] == "DE"  # a site does not move to another country
    assert len(factories.events_of(None)) == before


def test_the_key_file_is_used_again_while_its_key_is_good(bootstrap, tmp_path):
    file = tmp_path / "key"
    first = bootstrap("--api-key-file", str(file))["api_key"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert bootstrap("--api-key-file", str(file))["api_key"] == first
    principal = services.authenticate_key(first)
    with rls.tenant_scope(principal.tenant_id):
        services.revoke_api_key(factories.SYSTEM, ApiKey.objects.get(pk=principal.key_id))
    second = bootstrap("--api-key-file", str(file))["api_key"]
    assert second != first
    file.write_text("something else\n")
    assert bootstrap("--api-key-file", str(file))["api_key"] not in (first, second)
    assert services.authenticate_key(file.read_text().strip())


def test_a_moved_broker_is_followed(bootstrap):
    bootstrap()
    call_command("bootstrap_demo", "--broker", "redis://127.0.0.1:2/0", "--json", stdout=io.StringIO())
    assert broker_url(Site.objects.get()) == "redis://127.0.0.1:2/0"


def test_a_worker_that_was_revoked_needs_a_new_token(bootstrap):
    bootstrap()
    Worker.objects.create(site=Site.objects.get(), name="node", public_key=b"k" * 32, state="revoked")
    assert bootstrap()["enrol_token"].startswith("kse_")


def test_a_policy_that_a_person_activated_stays(bootstrap):
    facts = bootstrap()
    with rls.platform_scope():
        tenant = Tenant.objects.get(slug="demo")
    factories.active_policy(tenant, {"version": 1, "rules": []})
    assert bootstrap()["policy_version"] == facts["policy_version"] + 1
    assert not explain(tenant, data_class="public", model="smollm2-moe").allowed


def test_without_a_model_it_says_what_is_missing(db):
    with pytest.raises(CommandError, match="--model-dir"):
        call_command("bootstrap_demo", "--broker", "redis://127.0.0.1:1/0", stdout=io.StringIO())
