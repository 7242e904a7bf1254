"""Selections, opened content and resumption of exports out of the database, checked by the program they bring."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from django.core.management import CommandError, call_command

from kasbah.audit.content import erasure
from kasbah.audit.export.companions import companions
from kasbah.audit.models import Content, ContentKey
from kasbah.audit.services import Event, EventType, Model, Policy, Resource, exports, record
from kasbah.audit.services.events import ActorRef
from kasbah.common import rls
from kasbah.common.errors import Forbidden, Invalid, NotFound, Unavailable
from kasbah.common.ids import uuid7
from kasbah.identity.models import Role
from kasbah.identity.services import create_api_key
from kasbah.residency.services import erasures
from kasbah.residency.services.disclosure import ExportReading
from tests import factories
from tests.audit.bundles import altered
from tests.audit.logs import WHO, run, unguarded, write
from tests.audit.made import check, done, files_of

__all__ = ["check"]  # a fixture
pytestmark = pytest.mark.django_db(transaction=True)
DIGEST = "ab" * 32


def shown(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files_of(data)["events.jsonl"].splitlines()]


def inference(tenant: UUID, key: str, request: str, digest: str = DIGEST) -> None:
    """A request as the gateway and housekeeping record it: the outcome names neither model nor person."""
    actor = ActorRef("api_key", key, "api_key")
    with rls.tenant_scope(tenant):
        record(
            Event(
                type=EventType.INFERENCE_INTENT,
                tenant_id=tenant,
                actor=actor,
                request_id=request,
                model=Model("m", digest),
            )
        )
    with rls.tenant_scope(tenant):  # later: events of one transaction stand in the order of their ids
        record(Event(type=EventType.INFERENCE_OUTCOME, tenant_id=tenant, actor=actor, request_id=request))


def test_a_persons_extract(tmp_path: Path, check: Callable[[bytes, UUID], str]) -> None:
    home = factories.household()
    tenant, person = home.tenant.id, factories.fresh(home.admin)
    write(tenant, 20)
    key = create_api_key(person, home.tenant, home.project, "mine").key
    inference(tenant, str(key.id), "req_mine")
    inference(tenant, str(home.key.id), "req_other")
    with rls.tenant_scope(tenant):
        resource = Resource("request", "req_mine")
        record(Event(type=EventType.CONTENT_READ, tenant_id=tenant, actor=WHO, resource=resource))
    with rls.tenant_scope(tenant):
        record(Event(type=EventType.MEMBER_ADDED, tenant_id=tenant, actor=WHO, resource=Resource("user", person.id)))
    run()
    wanted = exports.Wanted(tenant_id=tenant, selection=exports.Selection(exports.PERSON, person.id))
    data = done(wanted, tmp_path)
    kinds = ["key.created", "inference.intent", "inference.outcome", "content.read", "membership.added"]
    assert [one["type"] for one in shown(data)] == kinds
    assert f"selection  person {person.id}" in check(data, tenant)
    assert b"req_other" not in files_of(data)["events.jsonl"]
    told = factories.events_of(tenant)[-1]
    assert (told["type"], told["details"]["selection"], told["details"]["by"]) == (
        "audit.exported",
        "person",
        person.id,
    )
    with pytest.raises(NotFound, match="No event of the log is about this person") as refused:
        done(exports.Wanted(tenant_id=tenant, selection=exports.Selection(exports.PERSON, str(uuid7()))), tmp_path)
    assert refused.value.param == "person"


def test_a_model_and_one_request(tmp_path: Path, check: Callable[[bytes, UUID], str]) -> None:
    tenant = factories.tenant().id
    for number in range(3):
        inference(tenant, "k", f"req_{number}", DIGEST if number else "cd" * 32)
    run()
    data = done(exports.Wanted(tenant_id=tenant, selection=exports.Selection(exports.MODEL, DIGEST)), tmp_path)
    assert [one["request_id"] for one in shown(data)] == ["req_1", "req_1", "req_2", "req_2"]
    assert "selection  model" in check(data, tenant)
    data = done(exports.Wanted(tenant_id=tenant, selection=exports.Selection(exports.REQUEST, "req_0")), tmp_path)
    assert [one["type"] for one in shown(data)] == ["inference.intent", "inference.outcome"]
    assert "selection  request req_0" in check(data, tenant)


def test_a_dossier_brings_the_policy_and_the_model(tmp_path: Path, check: Callable[[bytes, UUID], str]) -> None:
    from inference_worker.contract.manifest import FileEntry, digest_of
    from kasbah.registry.models import Model as Family
    from kasbah.registry.models import ModelVersion

    tenant = factories.tenant()
    policy = factories.active_policy(tenant, {"version": 1, "rules": []})
    files = [FileEntry(path="b", sha256="b" * 64, size=1), FileEntry(path="a", sha256="a" * 64, size=2)]
    digest, manifest = digest_of(files), msgspec.to_builtins(files)
    family = Family.objects.create(name=factories.slug("model"), publisher="P", licence="L", family="F")
    ModelVersion.objects.create(model=family, digest=digest, manifest=manifest, size=3)
    with rls.platform_scope():
        for kind, of in ((EventType.MODEL_REGISTERED, digest), (EventType.MODEL_APPROVED, "another")):
            record(Event(type=kind, tenant_id=None, actor=WHO, resource=Resource("model_version", "x", of)))
    with rls.tenant_scope(tenant.id):
        decided = Policy("p", policy.version, "allow")
        kind, model = EventType.INFERENCE_INTENT, Model("m", digest)
        record(Event(type=kind, tenant_id=tenant.id, actor=WHO, request_id="req_1", policy=decided, model=model))
    run()
    wanted = exports.Wanted(tenant_id=tenant.id, selection=exports.Selection(exports.REQUEST, "req_1"))
    data = done(wanted, tmp_path)
    files_there = files_of(data)
    assert json.loads(files_there[f"dossier/policy-{policy.version}.json"])["document"] == policy.document
    assert json.loads(files_there[f"dossier/model-{digest}.json"])["publisher"] == "P"
    said = check(data, tenant.id)
    assert "dossier    2 documents" in said
    assert "1 events of the installation's log about the model" in said
    run()  # the installation's log goes on, and the documents stay the same
    again = files_of(done(wanted, tmp_path))
    assert {name: again[name] for name in again if "dossier" in name} == {
        name: files_there[name] for name in files_there if "dossier" in name
    }
    forged = altered(data, lambda files: files.update({"dossier/system/1.json": files["dossier/system/0.json"]}))
    assert check(forged, tenant.id) == "file_unknown"
    ModelVersion.objects.filter(digest=digest).update(manifest=manifest[:1])
    assert check(done(wanted, tmp_path), tenant.id) == "dossier_differs"


def test_the_commands_of_the_guide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = factories.household()
    row = factories.content(home.project)
    who = factories.user()
    factories.membership(home.tenant, who, Role.AUDITOR)
    inference(home.tenant.id, str(home.key.id), "req_1")
    with rls.tenant_scope(home.tenant.id):
        record(Event(type=EventType.MEMBER_ADDED, tenant_id=home.tenant.id, actor=ActorRef("user", str(who.id), "x")))
    with rls.platform_scope():
        resource = Resource("model_version", "x", DIGEST)
        record(Event(type=EventType.MODEL_REGISTERED, tenant_id=None, actor=WHO, resource=resource))
    run()
    text = (Path(__file__).parents[2] / "docs" / "auditor" / "audit-log.md").read_text(encoding="utf-8")
    lines = [line.split()[1:] for line in text.splitlines() if line.startswith("    manage.py auditexport")]
    assert len(lines) == 6
    real = {"finance": home.tenant.slug, "ada@example.org": who.email, "grace@example.org": who.email}
    for words in lines:
        given = [
            real.get(word)
            or (row.request_id if word.startswith("req_") else DIGEST if word.startswith("3f0c") else word)
            for word in words
        ]
        given[-1] = str(tmp_path / given[-1])
        call_command(*given)
        assert Path(given[-1]).exists()
    with zipfile.ZipFile(tmp_path / "prompt.zip") as archive:
        assert f"content/{row.request_id}.prompt.json" in archive.namelist()
    with pytest.raises(CommandError, match="--open and --by belong together"):
        call_command(*lines[0], "--open", "all")


def opened(tenant: Any, request: str, parts: list[str]) -> exports.Wanted:
    selection = exports.Selection(exports.REQUEST, request)
    return exports.Wanted(tenant_id=tenant.id, selection=selection, opened=parts)


def auditor(tenant: Any) -> Any:
    who = factories.user()
    factories.membership(tenant, who, Role.AUDITOR)
    return factories.fresh(who)


def test_one_field_is_disclosed_and_on_record(
    tmp_path: Path, check: Callable[[bytes, UUID], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = factories.household()
    row = factories.content(home.project)
    run()
    wanted = opened(home.tenant, row.request_id, ["prompt"])
    with pytest.raises(Forbidden):
        done(wanted, tmp_path, factories.fresh(home.admin))  # an administrator reads no content
    with pytest.raises(Forbidden, match="by a person"):
        done(wanted, tmp_path)  # nor does the platform itself
    with pytest.raises(Invalid) as refused:
        done(exports.Wanted(tenant_id=home.tenant.id, opened=["prompt"]), tmp_path, auditor(home.tenant))
    assert refused.value.param == "open"
    before = [one["type"] for one in factories.events_of(home.tenant.id)]
    assert "content.read" not in before
    data = done(wanted, tmp_path, auditor(home.tenant))
    found = json.loads(files_of(data)[f"content/{row.request_id}.prompt.json"])
    assert found["request_id"] == row.request_id
    assert "content    1 parts opened" in check(data, home.tenant.id)
    read = [one for one in factories.events_of(home.tenant.id) if one["type"] == "content.read"]
    assert [(one["resource"]["id"], one["details"]["shown"]) for one in read] == [(row.request_id, ["prompt"])]
    assert not [
        name for name in files_of(done(opened(home.tenant, row.request_id, []), tmp_path)) if "content/" in name
    ]
    # The negative control: it is the check that stops an administrator, and nothing else.
    monkeypatch.setattr(ExportReading, "check", lambda *_given: None)
    assert f"content/{row.request_id}.prompt.json" in files_of(done(wanted, tmp_path, factories.fresh(home.admin)))
    monkeypatch.setattr(companions, "reading", None)
    with pytest.raises(Forbidden, match="nothing says who may read it"):
        done(wanted, tmp_path, auditor(home.tenant))


def test_a_persons_content(tmp_path: Path, check: Callable[[bytes, UUID], str]) -> None:
    home = factories.household()
    who = auditor(home.tenant)
    inference(home.tenant.id, str(home.admin.pk), "req_mine")  # as the person himself
    inference(home.tenant.id, str(home.key.pk), "req_other")
    for request in ("req_mine", "req_other"):
        factories.content(home.project, request_id=request)
    run()
    selection = exports.Selection(exports.PERSON, str(home.admin.pk))
    wanted = exports.Wanted(tenant_id=home.tenant.id, selection=selection, opened=["prompt", "answer"])
    data = done(wanted, tmp_path, who)
    assert [name for name in files_of(data) if "content/req" in name] == ["content/req_mine.prompt.json"]
    assert "content    1 parts opened" in check(data, home.tenant.id)


def test_what_was_pruned_is_declared_with_its_event(
    tmp_path: Path, check: Callable[[bytes, UUID], str], superuser: psycopg.Connection[Any]
) -> None:
    tenant = factories.tenant().id
    events = write(tenant, 8)
    run()
    early = exports.Wanted(tenant_id=tenant)
    told = Event(type=EventType.AUDIT_READ, tenant_id=tenant, actor=WHO, details={"ranges": ["2-5"]})
    data = told.encoded.replace(b'"audit.read"', b'"log.pruned"')
    with unguarded(superuser) as execute:
        execute("DELETE FROM audit_intake WHERE id = ANY(%s)", [events[2:5]])
    with pytest.raises(exports.ExportBroken):
        done(early, tmp_path)  # deleted: nothing says so
    execute(
        'INSERT INTO audit_pruned (id, tenant_id, log_id, start, "end", event_id)'
        " SELECT gen_random_uuid(), tenant_id, id, 2, 5, %s FROM audit_log WHERE tenant_id = %s",
        [told.id, tenant],
    )
    execute(
        "INSERT INTO audit_intake (id, tenant_id, type, request_id, event) VALUES (%s, %s, 'log.pruned', '', %s)",
        [told.id, tenant, data],
    )
    with pytest.raises(Unavailable, match="pruned a moment ago"):
        done(early, tmp_path)  # the log does not tell of it yet
    run()
    assert "pruned     3 more were removed by a policy" in check(done(early, tmp_path), tenant)
    some = exports.Wanted(tenant_id=tenant, selection=exports.Selection(exports.REQUEST, "req_1"))
    inference(tenant, "k", "req_1")
    run()
    data = done(some, tmp_path)
    assert sorted(name for name in files_of(data) if name.startswith("evidence/")) == [
        "evidence/8.json",
        "evidence/8.tlog-proof",
    ]
    assert "pruned     3 more were removed by a policy" in check(data, tenant)


def test_content_that_is_erased_missing_or_moved(
    tmp_path: Path, check: Callable[[bytes, UUID], str], superuser: psycopg.Connection[Any]
) -> None:
    home = factories.household()
    who = auditor(home.tenant)
    rows = [factories.content(home.project) for _ in range(4)]
    with rls.tenant_scope(home.tenant.id):
        gone = record(Event(type=EventType.CONTENT_ERASED, tenant_id=home.tenant.id, actor=WHO))
        Content.objects.filter(pk=rows[0].pk).update(
            opening=None, record_key=None, ciphertext=None, erased_at="2026-11-01T00:00Z", erased_reason="ceiling",
            erased_event=gone.id,
        )  # fmt: skip
    execute: Any = superuser.execute
    execute("ALTER TABLE audit_content DISABLE TRIGGER audit_content_guard")
    execute("DELETE FROM audit_content WHERE id = %s", [rows[1].pk])
    execute("UPDATE audit_content SET ciphertext = (SELECT ciphertext FROM audit_content WHERE id = %s) WHERE id = %s",
            [rows[3].pk, rows[2].pk])  # fmt: skip
    execute("ALTER TABLE audit_content ENABLE ALWAYS TRIGGER audit_content_guard")
    run()
    erased, missing, moved = (done(opened(home.tenant, row.request_id, ["prompt"]), tmp_path, who) for row in rows[:3])
    said = check(erased, home.tenant.id)
    assert "erased     1 parts of requests: ceiling" in said
    assert "content    0 parts opened" in said
    assert [name for name in files_of(erased) if name.startswith("evidence/")]  # the event that tells of the erasure
    assert check(missing, home.tenant.id) == "content_missing"
    assert "altered: the prompt does not open" in check(moved, home.tenant.id)
    read = [one for one in factories.events_of(home.tenant.id) if one.get("reason") == "content_altered"]
    assert [one["resource"]["id"] for one in read] == [rows[2].request_id]
    with rls.tenant_scope(home.tenant.id):
        late = record(Event(type=EventType.CONTENT_ERASED, tenant_id=home.tenant.id, actor=WHO))
        Content.objects.filter(pk=rows[3].pk).update(
            opening=None, record_key=None, ciphertext=None, erased_at="2026-11-02T00:00Z", erased_reason="level_none",
            erased_event=late.id,
        )  # fmt: skip
    said = check(done(opened(home.tenant, rows[3].request_id, ["prompt"]), tmp_path, who), home.tenant.id)
    assert "erased: level_none" in said  # after the checkpoint
    whole = done(exports.Wanted(tenant_id=home.tenant.id), tmp_path)
    assert "erased     1 parts of requests: ceiling" in check(whole, home.tenant.id)


def test_a_month_that_went_with_its_key(tmp_path: Path, check: Callable[[bytes, UUID], str]) -> None:
    """The same export before and after the rests in the table were cleared away."""
    home = factories.household()
    who, second = auditor(home.tenant), factories.user()
    factories.membership(home.tenant, second)
    row = factories.content(home.project)
    with rls.tenant_scope(home.tenant.id):
        month = ContentKey.objects.get(id=row.key_id).month
    wish = erasures.Wish(month=month)
    asked = erasures.request_erasure(factories.fresh(home.admin), home.tenant, wish, basis="data_subject", reason="R")
    factories.approve(factories.fresh(second), asked)
    run()
    wanted = opened(home.tenant, row.request_id, ["prompt"])
    data = done(wanted, tmp_path, who)
    assert "content.erased" in [one["type"] for one in shown(data)]
    assert "erased     1 parts of requests: key_destroyed" in check(data, home.tenant.id)
    with rls.tenant_scope(home.tenant.id):
        assert erasure.clear_batch(home.tenant.id) == 1
    assert done(wanted, tmp_path, who) == data


def test_holds_are_told_without_words_of_people(tmp_path: Path) -> None:
    from kasbah.residency.services.holds import Reach, place_hold

    home = factories.household()
    row = factories.content(home.project)
    place_hold(
        factories.fresh(home.admin), home.tenant, Reach(request_id=row.request_id), reason="Mr X", reference="12/34"
    )
    run()
    holds = json.loads(files_of(done(exports.Wanted(tenant_id=home.tenant.id), tmp_path))["holds.json"])
    assert [hold["request"] for hold in holds] == [row.request_id]
    assert not {"reason", "reference"} & set(holds[0])
