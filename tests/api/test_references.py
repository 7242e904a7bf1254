"""Objects are named by id or by the name that people know, in paths, bodies, queries and commands."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from rest_framework.test import APIClient

from kasbah.common import rls
from kasbah.identity.models import Project
from kasbah.serving.services import grant
from tests import factories
from tests.serving import estate

pytestmark = pytest.mark.django_db


@pytest.fixture
def admin() -> APIClient:
    """A platform administrator's session."""
    made = APIClient()
    made.force_login(factories.user(is_platform_admin=True))
    return made


@pytest.fixture
def home() -> factories.Household:
    return factories.household()


@pytest.fixture
def member(home: factories.Household) -> APIClient:
    """An administrator of the tenant."""
    made = APIClient()
    made.force_login(home.admin)
    return made


def get(client: APIClient, path: str) -> Any:
    answer = client.get(f"/api/{path}")
    assert answer.status_code == 200, answer.content
    return answer.json()


def test_path_names_a_site_a_deployment_a_project_and_a_tenant_by_either(
    admin: APIClient, member: APIClient, home: factories.Household
) -> None:
    paris = estate.site("paris", "FR")
    mini = estate.deployment("mini", paris)
    assert get(admin, "sites/paris/") == get(admin, f"sites/{paris.id}/")
    assert get(admin, "deployments/mini/") == get(admin, f"deployments/{mini.id}/")
    by_slug = f"tenants/{home.tenant.slug}/projects/{home.project.slug}/"
    by_id = f"tenants/{home.tenant.id}/projects/{home.project.id}/"
    assert get(member, by_slug) == get(member, by_id)
    assert admin.get("/api/sites/nowhere/").status_code == 404


def test_body_and_query_name_by_either(admin: APIClient, member: APIClient, home: factories.Household) -> None:
    paris = estate.site("paris", "FR")
    estate.deployment("mini", paris)
    for site in ("paris", str(paris.id)):
        issued = admin.post("/api/enrolment-tokens/", {"site": site}, format="json")
        assert (issued.status_code, issued.json()["site"]) == (201, str(paris.id))
    for query in ("paris", paris.id):
        assert len(get(admin, f"enrolment-tokens/?site={query}")["data"]) == 2
    wrong = admin.post("/api/enrolment-tokens/", {"site": "lyon"}, format="json")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "site")
    assert "give its id or its slug" in wrong.json()["error"]["message"]
    for project in (home.project.slug, str(home.project.id)):
        body = {"project": project, "name": "k"}
        made = member.post(f"/api/tenants/{home.tenant.slug}/api-keys/", body, format="json")
        assert (made.status_code, made.json()["project"]) == (201, str(home.project.id))


def test_name_reaches_nothing_of_another_tenant(member: APIClient, home: factories.Household) -> None:
    other = factories.household()
    with rls.tenant_scope(other.tenant.id):
        Project.objects.filter(pk=other.project.pk).update(slug="only-theirs")
    keys = f"/api/tenants/{home.tenant.slug}/api-keys/"
    foreign = member.post(keys, {"project": "only-theirs", "name": "k"}, format="json")
    missing = member.post(keys, {"project": "nobodys", "name": "k"}, format="json")
    assert (foreign.status_code, foreign.json()) == (missing.status_code, missing.json())
    assert member.get(f"/api/tenants/{other.tenant.id}/projects/").status_code == 404
    assert member.get(f"/api/tenants/{home.tenant.slug}/projects/only-theirs/").status_code == 404


def test_filter_tells_nothing_of_what_is_not_the_tenants(member: APIClient, home: factories.Household) -> None:
    """A deployment without a grant, another tenant's project: the same as one that nobody has."""
    paris = estate.site("paris", "FR")
    estate.deployment("secret", paris)
    mine = estate.deployment("mini", paris)
    grant(factories.SYSTEM, home.tenant, mine)
    other = factories.household()
    with rls.tenant_scope(other.tenant.id):
        Project.objects.filter(pk=other.project.pk).update(slug="only-theirs")
    here = f"tenants/{home.tenant.slug}"
    for wanted in ("mini", mine.id):
        assert len(get(member, f"{here}/grants/?deployment={wanted}")["data"]) == 1
    for there, missing in (
        (f"{here}/grants/?deployment=secret", f"{here}/grants/?deployment=nobodys"),
        (f"{here}/api-keys/?project=only-theirs", f"{here}/api-keys/?project=nobodys"),
        (f"{here}/jobs/?project=only-theirs", f"{here}/jobs/?project=nobodys"),
        (f"{here}/usage/?project=only-theirs", f"{here}/usage/?project=nobodys"),
        (f"{here}/jobs/?model=secret", f"{here}/jobs/?model=nobodys"),
        ("deployments/secret/", "deployments/nobodys/"),
        ("sites/?slug=paris2", "sites/?slug=nobodys"),
    ):
        answers = [member.get(f"/api/{path}") for path in (there, missing)]
        assert answers[0].status_code == answers[1].status_code, there
        assert answers[0].content == answers[1].content, there


def test_commands_take_an_id_where_they_take_a_slug(home: factories.Household) -> None:
    paris = estate.site("paris", "FR")
    issued = []
    for tenant, project in ((home.tenant.slug, home.project.slug), (home.tenant.id, home.project.id)):
        out = StringIO()
        named = ("--tenant", str(tenant), "--project", str(project), "--name", "k", "--json")
        call_command("createkey", *named, stdout=out)
        issued.append(json.loads(out.getvalue())["tenant"])
    assert issued == [home.tenant.slug] * 2
    for site in ("paris", paris.id):
        call_command("enroltoken", "--site", str(site), stdout=StringIO())
