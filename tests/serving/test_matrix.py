"""The matrix: the same answers as `decide` everywhere, for the models of a tenant, with what is up beside them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from django.core.management import call_command
from hypothesis import given, settings
from rest_framework.test import APIClient

from kasbah.common import rls
from kasbah.common.errors import Invalid, NotFound
from kasbah.identity.models import DataClass, Role, Tenant
from kasbah.residency.models import Policy, SiteHealth, SiteLife, SiteState
from kasbah.residency.services import CompiledPolicy, Question, compile_policy, create_policy, decide
from kasbah.serving.services import tenant_matrix
from kasbah.serving.services.matrix import CLASSES, Asked, Cell, cells
from kasbah.serving.services.offering import Offered, Offering
from tests import factories
from tests.factories import SYSTEM
from tests.residency import documents
from tests.residency.documents import MODELS, SITES

from .estate import allow, deployment, document, site, tenant_with, worker


def offered(name: str) -> Offered:
    return Offered(UUID(int=1), name, frozenset(), {})


def compare(policy: CompiledPolicy, asked: Question) -> None:
    """Each cell: the answer to a request of this class and model that could go to this site alone, and its rule."""
    found = list(cells(policy, asked, CLASSES, [offered(name) for name in (*MODELS, "other")]))
    assert len(found) == len(CLASSES) * 3 * len(SITES)
    for cell in found:
        (place,) = (fact for fact in SITES if fact.slug == cell.site)
        alone = msgspec.structs.replace(asked, data_class=cell.data_class, model=cell.model, sites=(place,))
        decision = decide(policy, alone)
        assert (cell.allowed, cell.rule) == (decision.allowed, decision.rule)


@given(documents.rules(), documents.rules(), documents.questions())
@settings(max_examples=60, deadline=None)
def test_the_matrix_equals_decide_everywhere(
    own: list[dict[str, Any]], bounds: list[dict[str, Any]], asked: Question
) -> None:
    baseline = compile_policy(documents.document(*bounds), version=1) if bounds else None
    compare(compile_policy(documents.document(*own), baseline=baseline), msgspec.structs.replace(asked, sites=SITES))


def test_without_a_policy_every_cell_is_denied() -> None:
    found = list(cells(None, documents.ask(), ("internal",), [offered("mixtral")]))
    assert [(cell.allowed, cell.rule) for cell in found] == [(False, "no_policy")] * len(SITES)


def test_a_cell_decided_by_other_logic_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the property."""
    policy = compile_policy(documents.document(documents.allow("france", jurisdictions=["FR"])))
    compare(policy, documents.ask())
    monkeypatch.setattr("kasbah.serving.services.matrix._rules", lambda *_: dict.fromkeys(SITES, "france"))
    with pytest.raises(AssertionError):
        compare(policy, documents.ask())


@pytest.fixture
def world(db: None) -> dict[str, Any]:
    """Paris and Rabat; mixtral at both, qwen in Paris, secretive not the tenant's; France only, but for one purpose."""
    paris, rabat = site("paris", "FR"), site("rabat", "MA")
    mixtral, qwen = deployment("mixtral", paris, rabat), deployment("qwen", paris)
    other = deployment("secretive", rabat)
    rules = [
        allow("france", jurisdictions=["FR"]),
        allow("abroad", purposes=["open"], tags=["personal"], sites=["rabat"]),
    ]
    tenant = tenant_with(document(*rules), mixtral, qwen)
    return {"paris": paris, "rabat": rabat, "mixtral": mixtral, "qwen": qwen, "other": other, "tenant": tenant}


def cell(tenant: Tenant, place: str, model: str = "mixtral", **asked: Any) -> Cell:
    found = [c for c in tenant_matrix(tenant, Asked(**asked)).cells if (c.site, c.model) == (place, model)]
    (internal,) = (c for c in found if c.data_class == "internal")
    return internal


def test_models_are_those_of_the_tenant_unless_all_are_asked_for(world: dict[str, Any]) -> None:
    assert {c.model for c in tenant_matrix(world["tenant"]).cells} == {"mixtral", "qwen"}
    assert {c.model for c in tenant_matrix(world["tenant"], Asked(every_model=True)).cells} == {
        "mixtral",
        "qwen",
        "secretive",
    }
    world["qwen"].enabled = False
    world["qwen"].save()
    assert {c.model for c in tenant_matrix(world["tenant"]).cells} == {"mixtral"}


def test_each_cell_names_its_rule_and_all_conditions_are_asked(world: dict[str, Any]) -> None:
    tenant = world["tenant"]
    assert (cell(tenant, "paris").allowed, cell(tenant, "paris").rule) == (True, "france")
    assert (cell(tenant, "rabat").allowed, cell(tenant, "rabat").rule) == (False, "default_deny")
    assert cell(tenant, "rabat", purpose="open").rule == "abroad"
    assert cell(tenant, "rabat", purpose="open", tags=("personal",)).rule == "abroad"
    assert not cell(tenant, "paris", purpose="open", tags=("personal",)).allowed


def test_allowed_is_not_the_same_as_up(world: dict[str, Any]) -> None:
    tenant, paris, mixtral = world["tenant"], world["paris"], world["mixtral"]
    seen = cell(tenant, "paris")
    assert (seen.allowed, seen.served, seen.up) == (True, True, False)
    row = worker(paris, mixtral)
    assert cell(tenant, "paris").up
    assert not cell(tenant, "paris", "qwen").up
    row.state = "drained"
    row.save()
    assert not cell(tenant, "paris").up
    worker(paris, mixtral, says="starting")
    assert not cell(tenant, "paris").up
    worker(world["rabat"], mixtral)
    seen = cell(tenant, "rabat")
    assert (seen.allowed, seen.up) == (False, True)  # up where it may not go


@pytest.mark.parametrize("state", [SiteState.CORDONED, SiteState.DRAINED])
def test_a_site_that_takes_no_jobs_is_allowed_as_before_but_serves_nothing(world: dict[str, Any], state: str) -> None:
    worker(world["paris"], world["mixtral"])
    world["paris"].state = state
    world["paris"].save()
    seen = cell(world["tenant"], "paris")
    assert (seen.allowed, seen.served, seen.up) == (True, False, False)


def test_workers_of_a_site_that_cannot_be_reached_are_not_up(world: dict[str, Any]) -> None:
    worker(world["paris"], world["mixtral"])
    health, _ = SiteHealth.objects.update_or_create(site=world["paris"], defaults={"life": SiteLife.LIVE})
    assert cell(world["tenant"], "paris").up
    health.life = SiteLife.UNREACHABLE
    health.save()
    seen = cell(world["tenant"], "paris")
    assert (seen.allowed, seen.served, seen.up) == (True, True, False)


def test_a_draft_is_shown_as_it_would_decide(world: dict[str, Any]) -> None:
    tenant = world["tenant"]
    draft = create_policy(SYSTEM, tenant, document(allow("morocco", jurisdictions=["MA"])))
    found = tenant_matrix(tenant, policy=draft)
    assert {c.site for c in found.cells if c.allowed} == {"rabat"}
    assert (found.policy, tenant_matrix(tenant).policy.version) == (draft, 1)  # type: ignore[union-attr]
    with pytest.raises(NotFound):
        tenant_matrix(factories.tenant(), policy=draft)


def test_windows_are_compared_with_the_moment_that_is_asked_about(world: dict[str, Any]) -> None:
    window = {"from": "08:00", "to": "18:00", "zone": "UTC"}
    factories.active_policy(world["tenant"], document(allow("day", sites=["*"], windows=[window])))
    for hour, allowed in ((12, True), (20, False)):
        assert cell(world["tenant"], "paris", at=datetime(2026, 3, 2, hour, tzinfo=UTC)).allowed is allowed


def test_a_project_is_named_by_slug_or_id(world: dict[str, Any]) -> None:
    tenant = world["tenant"]
    project = factories.project(tenant)
    factories.active_policy(tenant, document(allow("p", sites=["*"], projects=[str(project.id)])))
    assert cell(tenant, "paris", project=project.slug).allowed
    assert cell(tenant, "paris", project=str(project.id)).allowed
    assert not cell(tenant, "paris").allowed
    with pytest.raises(Invalid, match="no such project"):
        tenant_matrix(tenant, Asked(project=factories.household().project.slug))


def test_a_policy_that_was_altered_denies_everything_and_says_so(world: dict[str, Any]) -> None:
    found = tenant_matrix(world["tenant"])
    assert (found.problem, any(c.allowed for c in found.cells)) == ("", True)
    with rls.tenant_scope(world["tenant"].id), pytest.MonkeyPatch.context() as patch:
        patch.setattr("kasbah.residency.services.loaders.intact", lambda *_: False)
        found = tenant_matrix(world["tenant"])
    assert "altered" in found.problem
    assert not any(c.allowed for c in found.cells)


def test_the_baseline_bounds_every_cell_and_is_named(world: dict[str, Any]) -> None:
    factories.active_policy(
        None,
        document(allow("all", sites=["*"], tags=["*"]), {"id": "no-france", "effect": "deny", "jurisdictions": ["FR"]}),
    )
    found = tenant_matrix(world["tenant"], Asked(data_classes=("internal",)))
    assert found.baseline_version == 1
    assert {(c.site, c.allowed, c.rule) for c in found.cells} == {
        ("paris", False, "baseline/no-france"),
        ("rabat", False, "default_deny"),
    }


def test_a_matrix_that_is_too_large_is_refused(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kasbah.serving.services.matrix.MOST_CELLS", 15)
    with pytest.raises(Invalid, match="name one class"):
        tenant_matrix(world["tenant"])
    assert len(tenant_matrix(world["tenant"], Asked(data_classes=("internal",))).cells) == 4


class TestApi:
    """GET /api/tenants/<tenant>/matrix/ and /api/matrix/."""

    @pytest.fixture
    def as_user(self, db: None) -> Callable[[Any], APIClient]:
        def login(user: Any) -> APIClient:
            client = APIClient()
            client.force_login(user)
            return client

        return login

    @pytest.fixture
    def developer(self, world: dict[str, Any], as_user: Callable[[Any], APIClient]) -> APIClient:
        person = factories.user()
        factories.membership(world["tenant"], person, Role.DEVELOPER)
        return as_user(person)

    @pytest.fixture
    def root(self, as_user: Callable[[Any], APIClient]) -> APIClient:
        return as_user(factories.user(is_platform_admin=True))

    def test_in_json(self, developer: APIClient, world: dict[str, Any]) -> None:
        answer = developer.get(
            f"/api/tenants/{world['tenant'].slug}/matrix/?data_class=internal&tags=personal&purpose=open"
        )
        assert answer.status_code == 200, answer.content
        found = answer.json()
        assert (found["tenant"], found["policy_version"], found["policy_state"]) == (world["tenant"].slug, 1, "active")
        assert {(c["model"], c["site"]): c["allowed"] for c in found["cells"]} == {
            ("mixtral", "paris"): False,
            ("mixtral", "rabat"): True,
            ("qwen", "paris"): False,
            ("qwen", "rabat"): True,
        }
        assert {(c["model"], c["site"]): c["served"] for c in found["cells"]}["qwen", "rabat"] is False

    @pytest.mark.parametrize("way", ["query", "header"])
    def test_as_csv(self, developer: APIClient, world: dict[str, Any], way: str) -> None:
        path = f"/api/tenants/{world['tenant'].slug}/matrix/"
        answer = developer.get(f"{path}?format=csv") if way == "query" else developer.get(path, HTTP_ACCEPT="text/csv")
        assert answer["Content-Type"] == "text/csv; charset=utf-8"
        assert "attachment" in answer["Content-Disposition"]
        rows = list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
        assert len(rows) == 16
        first = next(row for row in rows if row["allowed"] == "true")
        assert (first["rule"], first["site"], first["up"]) == ("france", "paris", "false")

    def test_an_error_of_a_table_is_json(self, developer: APIClient, world: dict[str, Any]) -> None:
        for name in ("class=x", "data_class=x", "tags=A%20b", "policy=x", "models=some", "project=none"):
            answer = developer.get(f"/api/tenants/{world['tenant'].slug}/matrix/?format=csv&{name}")
            assert answer.status_code == 400, name
            assert answer["Content-Type"] == "application/json"
            assert answer.json()["error"]["param"] == name.partition("=")[0]

    def test_a_format_that_is_not_there_is_a_wrong_parameter(self, developer: APIClient, world: dict[str, Any]) -> None:
        answer = developer.get(f"/api/tenants/{world['tenant'].slug}/matrix/?format=xls")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "format")

    def test_models_of_others_are_for_the_platform(
        self, developer: APIClient, root: APIClient, world: dict[str, Any]
    ) -> None:
        path = f"/api/tenants/{world['tenant'].slug}/matrix/?models=all"
        assert developer.get(path).status_code == 403
        assert "secretive" in {c["model"] for c in root.get(path).json()["cells"]}
        assert "secretive" not in developer.get(path.partition("?")[0]).content.decode()

    def test_a_draft_of_the_tenant_and_of_nobody_else(self, developer: APIClient, world: dict[str, Any]) -> None:
        draft = create_policy(SYSTEM, world["tenant"], document(allow("morocco", jurisdictions=["MA"])))
        foreign = create_policy(SYSTEM, factories.tenant(), document())
        path = f"/api/tenants/{world['tenant'].slug}/matrix/?policy="
        assert developer.get(f"{path}{draft.id}").json()["policy_version"] == 2
        assert developer.get(f"{path}{foreign.id}").status_code == 404

    def test_all_tenants_page_by_page(self, root: APIClient, world: dict[str, Any], developer: APIClient) -> None:
        other = tenant_with(document(), world["mixtral"])
        first = root.get("/api/matrix/?limit=1").json()
        assert [found["tenant"] for found in first["data"]] == [other.slug]
        second = root.get(first["next"]).json()
        assert [found["tenant"] for found in second["data"]] == [world["tenant"].slug]
        assert {c["site"] for c in second["data"][0]["cells"] if c["allowed"]} == {"paris"}
        assert second["next"] is None
        table = root.get("/api/matrix/?limit=1&format=csv")
        assert len(table.content.decode().splitlines()) == 1 + 8
        assert table["Link"].endswith('rel="next"')
        assert developer.get("/api/matrix/").status_code == 403

    def test_a_page_that_is_too_large_is_refused(
        self, root: APIClient, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tenant_with(document(), world["mixtral"])
        monkeypatch.setattr("kasbah.serving.api.matrix.MOST_CELLS", 23)
        answer = root.get("/api/matrix/")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")
        assert root.get("/api/matrix/?limit=1").status_code == 200


@pytest.mark.django_db
class TestCommand:
    """`manage.py matrix`."""

    def run(self, *arguments: str) -> str:
        out = io.StringIO()
        call_command("matrix", *arguments, stdout=out, stderr=io.StringIO())
        return out.getvalue()

    def test_as_a_table_in_json_and_csv(self, world: dict[str, Any]) -> None:
        asked = ("--tenant", world["tenant"].slug, "--class", "internal", "--tag", "personal", "--purpose", "open")
        assert "abroad" in self.run(*asked)
        rows = json.loads(self.run(*asked, "--json"))
        assert [(row["model"], row["site"]) for row in rows if row["allowed"]] == [
            ("mixtral", "rabat"),
            ("qwen", "rabat"),
        ]
        assert self.run(*asked, "--csv").startswith("tenant,policy_version,data_class,model,site,")
        assert "secretive" in self.run(*asked, "--all-models")
        assert "may use no model" in self.run("--tenant", factories.tenant().slug)

    def test_a_draft(self, world: dict[str, Any]) -> None:
        draft: Policy = create_policy(SYSTEM, world["tenant"], document(allow("morocco", jurisdictions=["MA"])))
        with rls.tenant_scope(world["tenant"].id):
            assert draft.state == "draft"
        assert "morocco" in self.run("--tenant", world["tenant"].slug, "--policy", str(draft.version))


def test_classes_are_those_of_the_platform() -> None:
    assert tuple(DataClass.values) == CLASSES
    assert Offering((), ()).without_site(UUID(int=1)).deployments == ()
