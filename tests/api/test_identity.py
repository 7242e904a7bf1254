"""Tenants, projects, members, users and keys over the management API."""

from __future__ import annotations

from kasbah.audit.models import Intake
from kasbah.common import rls
from kasbah.identity.models import ApiKey, Role
from tests import factories
from tests.api.conftest import error


def recorded(tenant_id, kind):
    with rls.tenant_scope(tenant_id):
        return Intake.objects.filter(tenant_id=tenant_id, type=kind).count()


def test_a_tenant_is_created_renamed_and_listed(root):
    made = root.post("/api/tenants/", {"slug": "finance", "name": "Finance"})
    assert made.status_code == 201, made.content
    changed = root.patch("/api/tenants/finance/", {"name": "Ministry of Finance", "default_data_class": "internal"})
    assert changed.json() == made.json() | {"name": "Ministry of Finance", "default_data_class": "internal"}
    assert error(root.patch("/api/tenants/finance/", {"default_data_class": "x"}))["param"] == "default_data_class"
    assert root.get("/api/tenants/?slug=finance").json()["data"] == [changed.json()]
    assert root.post("/api/tenants/", {"slug": "finance", "name": "Again"}).status_code == 409


def test_a_member_sees_his_tenants_only(admin, home):
    factories.household()
    assert [tenant["slug"] for tenant in admin.get("/api/tenants/").json()["data"]] == [home.tenant.slug]


def test_an_empty_collection_is_an_empty_page(root):
    made = root.post("/api/tenants/", {"slug": "empty", "name": "Empty"})
    assert made.status_code == 201
    for collection in ("projects", "members", "api-keys"):
        answer = root.get(f"/api/tenants/empty/{collection}/")
        assert answer.status_code == 200
        assert answer.json() == {"data": [], "has_more": False, "next": None}


def test_pages_reach_every_object_once_in_both_orders(admin, home):
    for _ in range(6):
        factories.project(home.tenant)
    path = f"/api/tenants/{home.tenant.slug}/projects/"
    whole = [item["id"] for item in admin.get(path).json()["data"]]
    assert len(whole) == 7
    for order, expected in (("desc", whole), ("asc", whole[::-1])):
        seen, following = [], f"{path}?limit=3&order={order}"
        while following:
            page = admin.get(following).json()
            assert page["has_more"] is (page["next"] is not None)
            seen += [item["id"] for item in page["data"]]
            following = page["next"]
        assert seen == expected


def test_a_key_is_shown_once_works_and_is_revoked(admin, home, as_key):
    path = f"/api/tenants/{home.tenant.slug}/api-keys/"
    body = {"project": str(home.project.id), "name": "reporting", "scopes": ["management:read"], "role": "developer"}
    made = admin.post(path, body)
    assert made.status_code == 201, made.content
    text = made.json()["key"]
    shown = admin.get(f"{path}{made.json()['id']}/")
    assert text.encode() not in shown.content
    assert "key" not in shown.json()
    client = as_key(text)
    me = client.get("/api/me/").json()
    assert (me["kind"], me["name"], me["scopes"]) == ("api_key", "reporting", ["management:read"])
    assert client.get(path).status_code == 200
    assert "scope" in error(client.post(path, body))["message"]
    assert admin.post(f"{path}{made.json()['id']}/revoke/").json()["revoked_at"]
    assert client.get(path).status_code == 401
    assert (recorded(home.tenant.id, "key.created"), recorded(home.tenant.id, "key.revoked")) == (1, 1)


def test_a_developers_key_cannot_be_an_administrator(as_user, home):
    developer = factories.user()
    factories.membership(home.tenant, developer, Role.DEVELOPER)
    body = {"project": str(home.project.id), "name": "x", "scopes": ["management"], "role": "tenant_admin"}
    answer = as_user(developer).post(f"/api/tenants/{home.tenant.slug}/api-keys/", body)
    assert answer.status_code == 403
    with rls.tenant_scope(home.tenant.id):
        assert not ApiKey.objects.filter(name="x").exists()


def test_members_come_change_and_go(admin, as_user, home):
    person = factories.user()
    path = f"/api/tenants/{home.tenant.slug}/members/"
    made = admin.post(path, {"email": person.email.upper(), "role": "developer"})
    assert made.status_code == 202, made.content
    assert as_user(person).post(f"/api/me/invitations/{made.json()['id']}/accept/").status_code == 201
    (member,) = admin.get(f"{path}?user={person.id}").json()["data"]
    one = f"{path}{member['id']}/"
    assert admin.patch(one, {"role": "auditor"}).json()["role"] == "auditor"
    assert admin.post(path, {"email": person.email, "role": "auditor"}).status_code == 409
    assert admin.delete(one).status_code == 204
    assert admin.get(one).status_code == 404
    mine = next(item for item in admin.get(path).json()["data"] if item["user"] == str(home.admin.id))
    assert admin.patch(f"{path}{mine['id']}/", {"role": "developer"}).status_code == 403


def test_users_are_the_platforms(root, admin):
    body = {"email": "Ada@Example.org", "password": "correct horse battery", "name": "Ada"}
    made = root.post("/api/users/", body)
    assert made.status_code == 201, made.content
    assert made.json()["email"] == "ada@example.org"
    assert b"password" not in made.content
    assert root.patch(f"/api/users/{made.json()['id']}/", {"is_active": False}).json()["is_active"] is False
    weak = root.post("/api/users/", body | {"email": "b@example.org", "password": "123"})
    assert error(weak)["param"] == "password"
    assert admin.get("/api/users/").status_code == 403


def test_what_is_wrong_is_named(root, admin, home):
    path = f"/api/tenants/{home.tenant.slug}/projects/"
    for body, param in (
        ({"slug": "UPPER", "name": "x"}, "slug"),
        ({"slug": "ok"}, "name"),
        ({"slug": "ok", "name": "x", "colour": "red"}, "colour"),
        ({"slug": "ok", "name": "x" * 201}, "name"),
        ({"slug": "ok", "name": ["list"]}, "name"),
        ({"slug": "ok", "name": 3}, "name"),
        ({"slug": "ok", "name": None}, "name"),
        ({"slug": "ok", "name": "x", "default_data_class": "top"}, "default_data_class"),
        ([1, 2], None),
    ):
        answer = admin.post(path, body)
        assert answer.status_code == 400, body
        assert error(answer)["param"] == param, body
    keys = f"/api/tenants/{home.tenant.slug}/api-keys/"
    answer = admin.post(keys, {"project": str(home.project.id), "name": "x", "scopes": ["inference", "everything"]})
    assert error(answer)["param"] == "scopes[1]"
    answer = admin.post(keys, {"project": str(home.project.id), "name": "x", "scopes": ["inference", 3]})
    assert error(answer)["param"] == "scopes[1]"
    assert admin.post(keys, {"project": 3, "name": "x"}).status_code == 400


def test_query_parameters_are_checked(admin, home):
    path = f"/api/tenants/{home.tenant.slug}/projects/"
    for query, param in (("limit=0", "limit"), ("limit=many", "limit"), ("after=1", "after"), ("colour=red", "colour")):
        answer = admin.get(f"{path}?{query}")
        assert (answer.status_code, error(answer)["param"]) == (400, param)


def test_an_empty_change_is_refused(admin, home):
    answer = admin.patch(f"/api/tenants/{home.tenant.slug}/projects/{home.project.id}/", {})
    assert answer.status_code == 400
    assert "at least one field" in error(answer)["message"]
