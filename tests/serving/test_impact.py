"""What taking a site or a worker out would leave: who loses which class and model, and only those."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from rest_framework.test import APIClient

from kasbah.common import rls
from kasbah.identity.models import Role
from kasbah.residency.services import compile_policy, drain_site
from kasbah.serving.services import site_impact, tenant_matrix, worker_impact
from kasbah.serving.services.impact import Impact, Situation, rows, situations
from tests import factories
from tests.factories import SYSTEM

from .estate import allow, deployment, document, site, tenant_with, worker

pytestmark = pytest.mark.django_db
FRANCE, ANYWHERE = allow("france", jurisdictions=["FR"]), allow("anywhere", sites=["*"])
PERSONAL = allow("personal", tags=["personal"], jurisdictions=["FR"])


def lost(found: Impact) -> set[tuple[Any, ...]]:
    return {(row["tenant"], row["data_class"], row["model"], row["tags"], row["effect"]) for row in rows(found)}


@pytest.fixture
def world() -> dict[str, Any]:
    """Paris, Lyon and Rabat serve mixtral; a worker is ready in Paris and Rabat, none in Lyon."""
    paris, lyon, rabat = site("paris", "FR"), site("lyon", "FR"), site("rabat", "MA")
    mixtral = deployment("mixtral", paris, lyon, rabat)
    return {
        "paris": paris,
        "lyon": lyon,
        "mixtral": mixtral,
        "rabat": rabat,
        "node": worker(paris, mixtral),
        "away": worker(rabat, mixtral),
    }


def test_a_tenant_with_one_compliant_site_is_left_without(world: dict[str, Any]) -> None:
    confined = tenant_with(document(allow("paris", sites=["paris"])), world["mixtral"])
    tenant_with(document(ANYWHERE), world["mixtral"])
    found = site_impact(world["paris"])
    assert lost(found) == {(confined.slug, "internal", "mixtral", (), "no_compliant_site")}
    (row,) = rows(found)
    assert (row["compliant"], row["left"]) == (("paris",), ())
    assert lost(site_impact(world["rabat"])) == set()


def test_one_whose_other_sites_have_no_worker_is_left_without_a_live_one(world: dict[str, Any]) -> None:
    confined = tenant_with(document(FRANCE), world["mixtral"])
    wanted = {(confined.slug, "internal", "mixtral", (), "no_live_site")}
    assert lost(site_impact(world["paris"])) == wanted
    assert lost(worker_impact(world["node"])) == wanted
    assert lost(worker_impact(world["away"])) == set()
    worker(world["lyon"], world["mixtral"])
    assert lost(site_impact(world["paris"])) == set()


def test_a_second_worker_of_the_site_goes_on(world: dict[str, Any]) -> None:
    tenant_with(document(FRANCE), world["mixtral"])
    worker(world["paris"], world["mixtral"])
    assert lost(worker_impact(world["node"])) == set()
    assert lost(site_impact(world["paris"])) != set()


def test_tagged_data_may_be_left_without_where_the_rest_of_its_class_is_not(world: dict[str, Any]) -> None:
    tenant = tenant_with(document(ANYWHERE, PERSONAL), world["mixtral"])
    assert lost(site_impact(world["paris"])) == {(tenant.slug, "internal", "mixtral", ("personal",), "no_live_site")}


def test_what_is_down_already_is_not_lost_again(world: dict[str, Any]) -> None:
    tenant_with(document(FRANCE), world["mixtral"])
    drain_site(SYSTEM, world["paris"])
    assert lost(site_impact(world["paris"])) == set()


def test_models_that_a_tenant_may_not_use_and_tenants_switched_off_are_left_out(world: dict[str, Any]) -> None:
    tenant_with(document(FRANCE))
    gone = tenant_with(document(FRANCE), world["mixtral"])
    assert len(lost(site_impact(world["paris"]))) == 1
    gone.active = False
    with rls.platform_scope():
        gone.save()
    assert lost(site_impact(world["paris"])) == set()


def test_it_is_what_the_matrix_says_once_it_has_happened(world: dict[str, Any]) -> None:
    """The prediction, then the deed."""
    tenant = tenant_with(document(allow("paris", sites=["paris"])), world["mixtral"])
    predicted = lost(site_impact(world["paris"]))
    drain_site(SYSTEM, world["paris"])
    served = {(c.data_class, c.model) for c in tenant_matrix(tenant).cells if c.allowed and c.served}
    assert predicted == {(tenant.slug, "internal", "mixtral", (), "no_compliant_site")}
    assert ("internal", "mixtral") not in served


def test_situations_are_what_the_rules_tell_apart() -> None:
    rules = [
        allow("a", sites=["*"], tags=["personal", "health", "*"], purposes=["research"]),
        {"id": "b", "effect": "deny", "projects": ["01890a5d-ac96-774b-bcce-b302099a8001"]},
    ]
    baseline = compile_policy(document({"id": "c", "effect": "deny", "tags": ["military"]}))
    found = list(situations(compile_policy(document(*rules), baseline=baseline)))
    assert found[0] == Situation()
    assert len(found) == len(set(found)) == 4 * 2 + 1 + 1
    assert Situation(("personal", "health"), "research") in found
    assert Situation(("military",)) in found
    assert Situation(project="01890a5d-ac96-774b-bcce-b302099a8001") in found
    assert list(situations(None)) == [Situation()]


def test_a_tenant_with_too_many_situations_is_named(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = tenant_with(document(ANYWHERE, PERSONAL), world["mixtral"])
    monkeypatch.setattr("kasbah.serving.services.impact.MOST_SITUATIONS", 1)
    assert site_impact(world["paris"]).left_out == (tenant.slug,)


class TestApiAndCommand:
    """GET /api/sites/<id>/impact/, /api/workers/<id>/impact/ and `manage.py impact`."""

    def client(self, user: Any) -> APIClient:
        made = APIClient()
        made.force_login(user)
        return made

    def test_platform_administrators_see_it(self, world: dict[str, Any]) -> None:
        tenant = tenant_with(document(FRANCE), world["mixtral"])
        root = self.client(factories.user(is_platform_admin=True))
        for path in (f"/api/sites/{world['paris'].id}/impact/", f"/api/workers/{world['node'].id}/impact/"):
            found = root.get(path).json()
            assert (found["tenants"], found["left_out"]) == (1, [])
            (loss,) = found["losses"]
            assert (loss["tenant"], loss["effect"], loss["left"]) == (
                tenant.slug,
                "no_live_site",
                ["lyon"] if "sites" in path else ["paris", "lyon"],
            )
            assert root.get(f"{path}?format=csv").content.decode().startswith("tenant,data_class,model,")

    def test_nobody_else_does(self, world: dict[str, Any]) -> None:
        tenant = tenant_with(document(FRANCE), world["mixtral"])
        for role in Role:
            person = factories.user()
            factories.membership(tenant, person, role)
            for path in (f"/api/sites/{world['paris'].id}/impact/", f"/api/workers/{world['node'].id}/impact/"):
                assert self.client(person).get(path).status_code == 403

    def run(self, *arguments: str) -> str:
        out = io.StringIO()
        call_command("impact", *arguments, stdout=out, stderr=io.StringIO())
        return out.getvalue()

    def test_the_command(self, world: dict[str, Any]) -> None:
        assert "No tenant would be left" in self.run("--site", "paris")
        tenant = tenant_with(document(FRANCE), world["mixtral"])
        assert tenant.slug in self.run("--site", "paris")
        (loss,) = json.loads(self.run("--worker", str(world["node"].id), "--json"))
        assert loss["effect"] == "no_live_site"
        for wrong in (("--site", "none"), ("--worker", str(tenant.id))):
            with pytest.raises(CommandError, match=r"no (site|worker)"):
                self.run(*wrong)
