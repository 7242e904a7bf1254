"""Nothing comes in unclassified, and what is said to be recorded is: each such entrance of management is called."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError
from django.urls import path
from rest_framework.test import APIClient

import kasbah
from inference_worker.contract.signing import Signer
from kasbah.audit.classified import ANYWHERE, AUDITED, UNRECORDED
from kasbah.audit.models import Cursor
from kasbah.audit.services import EventType
from kasbah.audit.services.receipts import ring
from kasbah.common import rls
from kasbah.common.api import ManagementView
from kasbah.identity.models import AccountChangeKind, Project, User
from kasbah.identity.services import invitations
from kasbah.identity.services.standing import note_change
from kasbah.residency.models import Site
from kasbah.serving.models import Worker
from tests import factories
from tests.audit.entrances import entrances, of_django
from tests.audit.logs import sequence_uncommitted
from tests.audit.receivers import Authority
from tests.audit.recorder import Commands, Http, client
from tests.registry import folders

PASSWORD = "correct horse battery staple"
DOCUMENT = {
    "version": 1,
    "rules": [{"id": "all", "effect": "allow", "data_classes": ["public"], "models": ["*"], "sites": ["*"]}],
}


def test_every_entrance_is_classified_once() -> None:
    found = entrances()
    assert found - AUDITED.keys() - UNRECORDED.keys() == set(), "classify these in kasbah/audit/classified.py"
    assert (AUDITED.keys() | UNRECORDED.keys()) - found == set(), "these are gone; remove them"
    assert AUDITED.keys() & UNRECORDED.keys() == set()


def test_the_walk_sees_a_new_entrance() -> None:
    """The negative control: an entrance that nobody classified is found."""

    class Forgotten(ManagementView):
        def post(self, request: object) -> None: ...

    found = set(of_django([path("api/forgotten/", Forgotten.as_view())]))
    assert found == {"POST /api/forgotten/"}
    assert not found & (AUDITED.keys() | UNRECORDED.keys())


def test_what_writes_is_recorded_unless_it_only_computes() -> None:
    writes = {name for name in UNRECORDED if name.split()[0] in {"POST", "PUT", "PATCH", "DELETE"}}
    assert all("nothing changes" in UNRECORDED[name] for name in writes)


def test_every_type_of_event_has_an_entrance() -> None:
    assert frozenset().union(*AUDITED.values()) | ANYWHERE == set(EventType)


READERS = {
    "acting_person",
    "note_change",  # beside the event of whoever calls it
    "person_behind",
    "refuse_own",
    "require",
    "require_approver",
    "require_role",
    "require_second_person",
    "require_fresh_login",
    "require_no_more_than",
    "visible_tenants",
    "memberships",
    "find_receipt",
}
ELSEWHERE = {"accept_invitation"}  # records by a verb of another module (tenants.enter_member)


def verbs() -> Iterator[tuple[str, bool]]:
    """Public functions of services whose first argument is the actor, and whether they record an event."""
    for file in sorted(Path(str(kasbah.__file__)).parent.glob("*/services/*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        for name, node in functions.items():
            if node.args.args and node.args.args[0].arg == "actor" and not name.startswith("_"):
                yield name, records(node, functions, set())


def records(node: ast.FunctionDef, functions: dict[str, ast.FunctionDef], seen: set[str]) -> bool:
    """Whether `node` or a function of its module that it calls calls `record` or `record_apart`."""
    called = {
        getattr(call.func, "id", getattr(call.func, "attr", ""))
        for call in ast.walk(node)
        if isinstance(call, ast.Call)
    }
    if called & {"record", "record_apart"}:
        return True
    return any(
        records(functions[name], functions, seen | {name}) for name in called & functions.keys() if name not in seen
    )


def test_every_verb_with_an_actor_records() -> None:
    found = dict(verbs())
    assert len(found) >= 30
    assert {name for name, does in found.items() if not does} == READERS | ELSEWHERE


@pytest.fixture
def model(tmp_path: Path, settings: Any) -> Path:
    settings.IMPORT_DIR = str(tmp_path)
    return folders.model(tmp_path / "model")


@pytest.mark.django_db
def test_each_recorded_call_of_the_management_api_leaves_its_event(
    model: Path, redis_is_up: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = factories.household()
    http, root, second = Http(home), factories.user(is_platform_admin=True), factories.user(is_platform_admin=True)
    admin, person = client(home.admin), factories.user()
    _people(http, client(root), admin, person)
    _platform(http, client(root), client(second))
    _policies(http, "/api/tenants/<slug:tenant>/policies/", admin, client(second), loosens=True)
    _policies(http, "/api/baseline-policies/", client(root), client(second), loosens=False)
    _content(http, admin, client(second))
    _log(http, client(root), admin, root)
    sequence_uncommitted(monkeypatch)
    export = "GET /api/tenants/<slug:tenant>/audit-log/export/"
    address = f"/api/tenants/{home.tenant.slug}/audit-log/export/"
    assert http.note(export, lambda: admin.get(address)).status_code == 200
    http.assert_all(lambda name: " /api/" in name)


def _people(http: Http, root: APIClient, admin: APIClient, person: User) -> None:
    tenants, home = "/api/tenants/<slug:tenant>", http.home
    http.call(root, "POST /api/tenants/", {"slug": factories.slug("t"), "name": "T"}, status=201)
    http.call(root, f"PATCH {tenants}/", {"name": "Renamed"})
    project = http.call(admin, f"POST {tenants}/projects/", {"slug": "p", "name": "P"}, status=201)
    http.call(admin, f"PATCH {tenants}/projects/<str:pk>/", {"name": "Q"}, project["id"])
    _members(http, root, admin, person)
    key = http.call(admin, f"POST {tenants}/api-keys/", {"project": str(home.project.id), "name": "k"}, status=201)
    http.call(admin, f"POST {tenants}/api-keys/<uuid:pk>/revoke/", pk=key["id"])
    limit = {"scope": "project", "subject_id": str(home.project.id), "requests_per_minute": 5}
    made = http.call(admin, f"POST {tenants}/limits/", limit, status=201)
    http.call(admin, f"DELETE {tenants}/limits/<uuid:pk>/", pk=made["id"], status=204)
    email = f"{factories.slug('u')}@example.org"
    user = http.call(root, "POST /api/users/", {"email": email, "password": PASSWORD}, status=201)
    http.call(root, "PATCH /api/users/<uuid:pk>/", {"name": "N"}, user["id"])
    gone = factories.user()
    factories.api_key(http.home.project, made_by=gone)
    http.call(root, "PATCH /api/users/<uuid:pk>/", {"is_active": False, "keys": "revoke"}, gone.id)
    seen = root.get(f"/api/users/{user['id']}/changes/").json()["digest"]
    third = client(factories.user(is_platform_admin=True))
    http.call(third, "POST /api/users/<uuid:pk>/confirm-changes/", {"digest": seen}, user["id"])
    anonymous, session = APIClient(), "POST /api/session/"
    http.call(anonymous, session, {"email": email, "password": "wrong"}, status=401)
    http.call(anonymous, session, {"email": email, "password": PASSWORD})
    own = {"current_password": PASSWORD, "new_password": f"{PASSWORD} of my own"}
    http.call(anonymous, "POST /api/me/password/", own | {"current_password": "wrong"}, status=403)
    http.call(anonymous, "POST /api/me/password/", own, status=204)
    http.call(anonymous, "DELETE /api/session/", status=204)


def _members(http: Http, root: APIClient, admin: APIClient, person: User) -> None:
    tenants, place = "/api/tenants/<slug:tenant>", f"/api/tenants/{http.home.tenant.slug}"
    invite, role = f"POST {tenants}/members/", {"email": person.email, "role": "developer"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invitations, "LASTS", timedelta(seconds=-1))
        http.call(admin, invite, role, status=202)
    first = http.call(admin, invite, role, status=202)["id"]
    http.call(admin, f"POST {tenants}/invitations/<uuid:pk>/withdraw/", pk=first)
    second = http.call(admin, invite, role, status=202)["id"]
    http.call(client(person), "POST /api/me/invitations/<uuid:pk>/accept/", pk=second, status=201)
    member = admin.get(f"{place}/members/?user={person.id}").json()["data"][0]["id"]
    http.call(admin, f"PATCH {tenants}/members/<uuid:pk>/", {"role": "auditor"}, member)
    seen = root.get(f"{place}/members/{member}/changes/").json()["digest"]
    http.call(root, f"POST {tenants}/members/<uuid:pk>/confirm-changes/", {"digest": seen}, member)
    factories.api_key(http.home.project, made_by=person)
    address = f"{place}/members/{member}/?keys=revoke"
    assert http.note(f"DELETE {tenants}/members/<uuid:pk>/", lambda: admin.delete(address)).status_code == 204


def _policies(http: Http, place: str, one: APIClient, other: APIClient, loosens: bool) -> None:
    """The life of versions. `loosens`: the first one too, as a tenant's does and a baseline does not."""
    detail = f"POST {place}<uuid:pk>"

    def asked() -> Any:
        made = http.call(one, f"POST {place}", {"document": DOCUMENT}, status=201)
        return http.call(one, f"{detail}/request-activation/", pk=made["id"])

    def approve(policy: Any) -> None:
        http.call(other, f"{detail}/approve/", {"comparison": policy["comparison"]}, policy["id"])

    first = asked()
    if loosens:
        approve(first)
    nothing = http.call(one, f"POST {place}", {"document": DOCUMENT | {"rules": []}}, status=201)
    http.call(one, f"{detail}/request-activation/", pk=nothing["id"])
    back = http.call(one, f"{detail}/rollback/", {}, first["id"], status=201)
    approve(back)
    http.call(one, f"{detail}/rollback/", {}, nothing["id"], status=201)
    for verb, who, body in (("reject", other, {"reason": "No."}), ("withdraw", one, None)):
        http.call(who, f"{detail}/{verb}/", body, asked()["id"])


def _content(http: Http, admin: APIClient, second: APIClient) -> None:
    tenant, reader = "/api/tenants/<slug:tenant>", factories.user()
    factories.membership(http.home.tenant, reader, "auditor")
    stored = factories.content(http.home.project)
    read = f"GET {tenant}/content/<str:request_id>/"
    place = f"/api/tenants/{http.home.tenant.slug}/content/{stored.request_id}/"
    assert http.note(read, lambda: client(reader).get(place)).status_code == 200
    place = f"POST {tenant}/erasures/"
    wish = {"request_id": stored.request_id, "basis": "data_subject", "reason": "R"}
    for verb, who, body in (
        ("reject", second, {"reason": "No."}),
        ("withdraw", admin, None),
        ("approve", second, None),
    ):
        asked = http.call(admin, place, wish, status=201)
        seen = {"digest": asked["digest"]} if verb == "approve" else body
        http.call(who, f"{place}<uuid:pk>/{verb}/", seen, asked["id"])
    place, wish = f"POST {tenant}/pruning-policies/", {"keep_days": 400, "reason": "R"}
    steps = (
        ("reject", second, {"reason": "No."}),
        ("end", admin, {}),
        ("approve", second, None),
        ("approve", second, None),
    )
    for verb, who, body in steps:
        asked = http.call(admin, place, wish, status=201)
        seen = {"digest": asked["digest"]} if verb == "approve" else body
        http.call(who, f"{place}<uuid:pk>/{verb}/", seen, asked["id"])
    http.call(admin, f"{place}<uuid:pk>/end/", pk=asked["id"])
    holds = f"POST {tenant}/legal-holds/"
    hold = http.call(admin, holds, {"reason": "R", "reference": "1"}, status=201)["id"]
    asked = http.call(admin, f"{holds}<uuid:pk>/request-release/", {"reason": "Over."}, hold)
    http.call(second, f"{holds}<uuid:pk>/release/", {"digest": asked["release_digest"]}, hold)


def _platform(http: Http, root: APIClient, second: APIClient) -> None:
    site = {"slug": factories.slug("s"), "name": "S", "jurisdiction": "FR", "broker_url": "redis://127.0.0.1:1/0"}
    place = http.call(root, "POST /api/sites/", site, status=201)["id"]
    http.call(root, "PATCH /api/sites/<str:pk>/", {"name": "Renamed"}, place)
    facts = {"folder": "model", "name": factories.slug("m"), "publisher": "P", "licence": "L", "family": "F"}
    version = http.call(root, "POST /api/versions/", facts, status=201)
    http.call(second, "POST /api/versions/<uuid:pk>/approve/", {"digest": version["approval_digest"]}, version["id"])
    serve = {"name": factories.slug("d"), "model_version": version["id"], "sites": [place]}
    deployment = http.call(root, "POST /api/deployments/", serve, status=201)["id"]
    http.call(root, "PATCH /api/deployments/<str:pk>/", {"enabled": False}, deployment)
    grants = "/api/tenants/<slug:tenant>/grants/"
    grant = http.call(root, f"POST {grants}", {"deployment": deployment}, status=201)["id"]
    http.call(root, f"DELETE {grants}<uuid:pk>/", pk=grant, status=204)
    http.call(root, "POST /api/enrolment-tokens/", {"site": place}, status=201)
    for verb in ("cordon", "drain", "resume"):
        http.call(root, f"POST /api/sites/<str:pk>/{verb}/", pk=place)
    given_up = http.call(root, "POST /api/sites/", site | {"slug": factories.slug("site")}, status=201)["id"]
    for verb in ("drain", "retire"):
        http.call(root, f"POST /api/sites/<str:pk>/{verb}/", pk=given_up)
    worker = Worker.objects.create(site_id=place, name="w", public_key=b"k" * 32)
    for verb in ("approve", "cordon", "drain", "resume", "rotate-key", "revoke"):
        http.call(root, f"POST /api/workers/<uuid:pk>/{verb}/", pk=worker.id)
    stranger = Worker.objects.create(site_id=place, name="x", public_key=b"x" * 32)
    http.call(root, "POST /api/workers/<uuid:pk>/reject/", pk=stranger.id)
    _keys(http, root)
    _forwarding(http, root)


def _forwarding(http: Http, root: APIClient) -> None:
    place = "/api/audit-forwarders/"
    given = {"name": "soc", "kind": "syslog_tls", "address": "127.0.0.1:1", "ca_certificate": Authority().pem}
    made = http.call(root, f"POST {place}", given, status=201)["id"]
    http.call(root, f"PATCH {place}<uuid:pk>/", {"address": "localhost:1"}, made)
    for verb in ("disable", "enable", "test"):
        http.call(root, f"POST {place}<uuid:pk>/{verb}/", pk=made)
    http.call(root, f"DELETE {place}<uuid:pk>/", pk=made, status=204)


def _keys(http: Http, root: APIClient) -> None:
    site = {"slug": factories.slug("s"), "name": "S", "jurisdiction": "FR", "broker_url": "redis://127.0.0.1:1/0"}
    place = root.post("/api/sites/", site, format="json").json()["id"]
    http.call(root, "POST /api/sites/<str:pk>/keys/", pk=place, status=201)
    http.call(root, "POST /api/sites/<str:pk>/keys/switch/", pk=place)
    http.call(root, "POST /api/signing-keys/", status=201)
    http.call(root, "POST /api/signing-keys/rotation/")
    old = root.get("/api/signing-keys/").json()["data"][0]
    http.call(root, "POST /api/signing-keys/<uuid:pk>/revoke/", pk=old["id"])


def _log(http: Http, root: APIClient, admin: APIClient, user: User) -> None:
    for who, place in ((root, "/api/audit-events/"), (admin, "/api/tenants/<slug:tenant>/audit-events/")):
        first = http.call(who, f"GET {place}")["data"][0]
        http.call(who, f"GET {place}<uuid:pk>/", pk=first["id"])
    policies = "/api/tenants/<slug:tenant>/policies/"
    version = admin.get(policies.replace("<slug:tenant>", http.home.tenant.slug)).json()["data"][0]["id"]
    http.call(admin, f"POST {policies}<uuid:pk>/simulate/", pk=version)


@pytest.fixture
def redis_is_up(valkey_server: Any) -> None:
    """Failed logins are counted there."""


@pytest.mark.django_db
def test_each_recorded_command_leaves_its_event(
    model: Path, tmp_path: Path, audit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands, place, email = Commands(), ("--tenant", "acme"), f"{factories.slug('u')}@example.org"
    run = commands.run
    run("createtenant", "--slug", "acme", "--name", "Acme")
    run("createproject", *place, "--slug", "p", "--name", "P")
    run("createuser", "--email", email, "--platform-admin", "--generate-password")
    run("addmember", *place, "--email", email, "--role", "auditor")
    made = factories.user()
    note_change(factories.fresh(factories.user(is_platform_admin=True)), made.id, AccountChangeKind.CREATED)
    seen = commands.show("confirmuser", "--email", made.email)["digest"]
    run("confirmuser", "--email", made.email, "--digest", seen)
    key = run("createkey", *place, "--project", "p", "--name", "k")
    run("revokekey", *place, "--key", key["id"])
    (tmp_path / "policy.json").write_text(json.dumps(DOCUMENT))
    run("createsite", "--slug", "paris", "--name", "P", "--jurisdiction", "FR", "--broker", "redis://127.0.0.1:1/0")
    run("simulatepolicy", *place, "--file", str(tmp_path / "policy.json"))
    _versions(run, tmp_path, place, ("--by", email))
    _versions(run, tmp_path, ("--baseline",), ("--by", email))
    facts = ("--name", "m", "--publisher", "P", "--licence", "L", "--family", "F")
    digest = run("registermodel", "--folder", str(model), *facts)["digest"]
    seen = commands.show("approveversion", "--digest", digest)["approval_digest"]
    run("approveversion", "--digest", digest, "--by", email, "--approval-digest", seen)
    run("createdeployment", "--name", "d", "--digest", digest, "--site", "paris")
    run("grant", *place, "--deployment", "d")
    run("enroltoken", "--site", "paris")
    worker = Worker.objects.create(site=Site.objects.get(slug="paris"), name="w", public_key=b"k" * 32)
    old = run("rotatekeys", "ticket")["current"]
    run("rotatekeys", "ticket", "--force")
    run("rotatekeys", "ticket", "--revoke", old)
    run("rotatekeys", "site", "--site", "paris")
    run("rotatekeys", "site", "--site", "paris", "--force")
    run("rotatekeys", "worker", "--worker", str(worker.id))
    for verb in ("approve", "cordon", "drain", "resume", "revoke"):
        run("workers", verb, str(worker.id))
    stranger = Worker.objects.create(site=Site.objects.get(slug="paris"), name="x", public_key=b"x" * 32)
    run("workers", "reject", str(stranger.id))
    for verb in ("cordon", "drain", "resume"):
        run("sites", verb, "paris")
    run("createsite", "--slug", "oslo", "--name", "Oslo", "--jurisdiction", "NO", "--broker", "redis://127.0.0.1:1/0")
    for verb in ("drain", "retire"):
        run("sites", verb, "oslo")
    (tmp_path / "ca.pem").write_text(Authority().pem)
    where = ("--kind", "syslog_tls", "--address", "localhost:1", "--ca", str(tmp_path / "ca.pem"))
    run("forwarders", "add", "soc", *where, *place)
    run("forwarders", "disable", "soc")
    run("forwarders", "enable", "soc")
    with pytest.raises(CommandError, match="Connection refused"):
        run("forwarders", "test", "soc")
    run("forwarders", "remove", "soc")
    hold = run("legalholds", *place, "--place", "--reason", "R", "--reference", "1")["id"]
    run("legalholds", *place, "--request-release", hold, "--by", email, "--reason", "Over.")
    seen = commands.show("legalholds", *place)[0]["digest"]
    run("legalholds", *place, "--release", hold, "--by", factories.user(is_platform_admin=True).email, "--digest", seen)
    with rls.platform_scope():
        factories.content(Project.objects.get(slug="p", tenant__slug="acme"), days=1)  # its policy lets nothing be kept
    run("retention", *place)
    _erasures(run, place, email)
    sequence_uncommitted(monkeypatch)
    run("auditexport", *place, "--output", str(tmp_path / "export.zip"))
    following = Signer.from_raw(bytes(range(32)))
    monkeypatch.setattr("kasbah.audit.log.keys.ring", lambda: (following, *ring()))
    run("auditlog", "rotate-key")
    shutil.rmtree(audit_folder / "memory")
    run("auditlog", "trust", "--log", "test/audit/system")
    with rls.platform_scope():
        Cursor.objects.update(system_identifier="1")
    run("auditlog", "moved")
    commands.assert_all(lambda name: name.startswith("command ") and name != "command bootstrap_demo")


def _versions(run: Callable[..., Any], folder: Path, place: tuple[str, ...], by: tuple[str, ...]) -> None:
    """The life of versions; of the baseline the first one loosens nothing."""
    second = factories.user(is_platform_admin=True).email
    wide, closed = folder / "wide.json", folder / "closed.json"
    wide.write_text(json.dumps(DOCUMENT))
    closed.write_text(json.dumps(DOCUMENT | {"rules": []}))

    def put(file: Path, *arguments: str) -> tuple[str, ...]:
        return *place, "--policy-version", str(run("putpolicy", *place, "--file", str(file), *arguments)["version"])

    def approve(asked: Any) -> Any:
        if asked["state"] == "active":  # the first baseline loosens nothing
            return asked
        version = (*place, "--policy-version", str(asked["version"]))
        return run("approvepolicy", *version, "--by", second, "--comparison", asked["comparison"])

    def loosen() -> tuple[str, ...]:
        asked = run("putpolicy", *place, "--file", str(wide), "--activate", *by)
        approve(asked)
        return *place, "--policy-version", str(asked["version"])

    first = loosen()
    nothing = put(closed, "--activate", *by)
    loosen()
    put(closed, "--activate")
    run("activatepolicy", *put(closed))
    assert approve(run("activatepolicy", *put(wide), *by))["state"] == "active"
    run("rollbackpolicy", *nothing)
    approve(run("rollbackpolicy", *first, *by))
    run("rollbackpolicy", *nothing)
    loosen()
    run("rollbackpolicy", *nothing)
    run("rejectpolicy", *put(wide, "--activate", *by), "--by", second, "--reason", "No.")
    run("withdrawpolicy", *put(wide, "--activate", *by))


@pytest.mark.django_db
def test_the_demonstration_leaves_an_event_for_each_thing_it_makes(model: Path) -> None:
    commands = Commands()
    for port in (1, 2):  # the second time the broker has moved
        broker = f"redis://127.0.0.1:{port}/0"
        commands.run("bootstrap_demo", "--model-dir", str(model), "--jurisdiction", "FR", "--broker", broker)
    commands.assert_all(lambda name: name == "command bootstrap_demo")


def _erasures(run: Callable[..., Any], place: tuple[str, ...], email: str) -> None:
    with rls.platform_scope():
        project = Project.objects.get(tenant__slug="acme")
    request, second = factories.content(project).request_id, factories.user(is_platform_admin=True).email
    for verb, who, words in (("reject", second, ("--reason", "No.")), ("withdraw", email, ()), ("approve", second, ())):
        asked = run(
            "erasures", "request", *place, "--request", request, "--by", email, "--basis", "authority", "--reason", "R"
        )
        seen = ("--digest", asked["digest"]) if verb == "approve" else words
        run("erasures", verb, *place, "--id", asked["id"], "--by", who, *seen)
    last: tuple[str, str, tuple[str, ...]] = ("end", email, ())
    for verb, who, words in (("reject", second, ("--reason", "No.")), last, ("approve", second, ())):
        asked = run("pruning", "request", *place, "--keep-days", "400", "--by", email, "--reason", "R")
        seen = ("--digest", asked["digest"]) if verb == "approve" else words
        run("pruning", verb, *place, "--id", asked["id"], "--by", who, *seen)
    run("pruning", "end", *place, "--id", asked["id"], "--by", email)
