"""Selections, opened content and resumption of exports out of the database, checked by the program they bring."""

from __future__ import annotations

import errno
import io
import json
import random
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from django.core.management import CommandError, call_command

from kasbah.audit.export import bundle, work
from kasbah.audit.export.verifier import program
from kasbah.audit.models import Content
from kasbah.audit.services import Event, EventType, Model, Policy, Resource, exports, record
from kasbah.audit.services.events import ActorRef
from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound
from kasbah.common.ids import uuid7
from kasbah.identity.models import Role
from kasbah.identity.services import create_api_key
from tests import factories
from tests.audit.bundles import altered
from tests.audit.logs import WHO, run, write

pytestmark = pytest.mark.django_db(transaction=True)
DIGEST = "ab" * 32


def done(wanted: exports.Wanted, folder: Path, actor: Any = factories.SYSTEM) -> bytes:
    """The bytes of an export."""
    file = io.BytesIO()
    assert wanted.tenant_id is not None
    with rls.tenant_scope(wanted.tenant_id):
        begun, choice, _ = exports.begin(folder / "work", wanted, actor)
        with closing(begun):
            exports.export(file, begun, choice, actor)
            begun.remove()
    return file.getvalue()


def files_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def shown(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in files_of(data)["events.jsonl"].splitlines()]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[bytes, UUID], str]:
    """What verify.py says, or the name of what fails."""

    def verified(data: bytes, tenant: UUID) -> str:
        (tmp_path / "checked.zip").write_bytes(data)
        key = exports.log_key(f"test/audit/{tenant}").vkey()
        status = program.main([str(tmp_path / "checked.zip"), "--key", key])
        said = capsys.readouterr()
        return said.out if status == 0 else said.err.partition(":")[0]

    return verified


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


def test_one_field_is_disclosed_and_on_record(tmp_path: Path, check: Callable[[bytes, UUID], str]) -> None:
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
    whole = done(exports.Wanted(tenant_id=home.tenant.id), tmp_path)
    assert "erased     1 parts of requests: ceiling" in check(whole, home.tenant.id)


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


class Cut(Exception):
    """The process ends here."""


def test_what_was_cut_off_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: Callable[[bytes, UUID], str]
) -> None:
    monkeypatch.setattr(bundle, "SEGMENT", 40)
    tenant = factories.tenant().id
    write(tenant, 210)
    run()
    wanted = exports.Wanted(tenant_id=tenant)
    whole = done(wanted, tmp_path)
    write(tenant, 5)
    run()  # the log goes on meanwhile
    random.seed(7)
    for stop in sorted(random.sample(range(6, 210 + 6), 8)):
        file = io.BytesIO()

        def cut(at: int, of: int, stop: int = stop) -> None:
            if at >= stop * 2:
                raise Cut

        with rls.tenant_scope(tenant):
            begun, choice, _ = exports.begin(tmp_path / "cut", wanted, factories.SYSTEM)
            with closing(begun), pytest.raises(Cut):
                exports.export(file, begun, choice, factories.SYSTEM, cut)
    assert sum(1 for _ in (tmp_path / "cut").glob("events.*")) == 6
    with rls.tenant_scope(tenant):
        begun, choice, same = exports.begin(tmp_path / "cut", wanted, factories.SYSTEM)
        with closing(begun):
            assert (same, begun.events) == (True, 216)
            file = io.BytesIO()
            read: list[int] = []
            exports.export(file, begun, choice, factories.SYSTEM, lambda at, _: read.append(at))
    assert read[0] == 217  # nothing was read from the database again
    assert file.getvalue() == done(wanted, tmp_path)
    assert file.getvalue() != whole
    assert "events     216" in check(file.getvalue(), tenant)


def test_an_export_goes_on_under_the_checkpoint_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "SEGMENT", 40)
    tenant = factories.tenant().id
    write(tenant, 100)
    run()
    wanted = exports.Wanted(tenant_id=tenant)
    whole = done(wanted, tmp_path)

    def cut(at: int, _of: int) -> None:
        if at >= 80:
            raise Cut

    with rls.tenant_scope(tenant):
        begun, choice, _ = exports.begin(tmp_path / "cut", wanted, factories.SYSTEM)
        with closing(begun), pytest.raises(Cut):
            exports.export(io.BytesIO(), begun, choice, factories.SYSTEM, cut)
    write(tenant, 30)
    run()
    with rls.tenant_scope(tenant):
        begun, choice, same = exports.begin(tmp_path / "cut", wanted, factories.SYSTEM)
        with closing(begun):
            assert (same, begun.events) == (True, 80)
            with pytest.raises(Conflict, match="Another export writes"):
                exports.begin(tmp_path / "cut", wanted, factories.SYSTEM)
            exports.export(file := io.BytesIO(), begun, choice, factories.SYSTEM)
        assert file.getvalue() == whole
        until = exports.Wanted(tenant_id=tenant, until=choice.as_of.replace(year=2100))
        begun, _, same = exports.begin(tmp_path / "cut", until, factories.SYSTEM)
        begun.close()
        assert same  # the same events under the same checkpoint
        other = exports.Wanted(tenant_id=tenant, until=choice.as_of.replace(year=2000))
        begun, _, same = exports.begin(tmp_path / "cut", other, factories.SYSTEM)
        begun.close()
        assert (same, begun.events) == (False, 0)
        assert not list((tmp_path / "cut").glob("events.*"))


class Full(io.BytesIO):
    """A disk with room for so many bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 3_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)

    def fileno(self) -> int:
        return 1


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bundle, "SEGMENT", 20)
    tenant = factories.tenant()
    write(tenant.id, 60)
    run()
    command = ["auditexport", "--tenant", tenant.slug, "--output", str(tmp_path / "full.zip")]
    real = work.Work.open
    with monkeypatch.context() as full:
        full.setattr(work.Work, "open", lambda self, path: Full() if path.name == "events.000002" else real(self, path))
        with pytest.raises(CommandError, match=r"No space left on device.*same command again"):
            call_command(*command)
    assert not (tmp_path / "full.zip").exists()
    call_command(*command)
    assert "Going on after 40 of 60 events" in capsys.readouterr().err
    call_command("auditexport", "--tenant", tenant.slug, "--output", str(tmp_path / "again.zip"))
    assert (tmp_path / "again.zip").read_bytes() == (tmp_path / "full.zip").read_bytes()
    assert not (tmp_path / "full.zip.part").exists()


def test_a_segment_that_was_changed_is_not_believed(tmp_path: Path) -> None:
    tenant = factories.tenant().id
    write(tenant, 10)
    run()
    with rls.tenant_scope(tenant):
        begun, choice, _ = exports.begin(tmp_path / "cut", exports.Wanted(tenant_id=tenant), factories.SYSTEM)
        with closing(begun):
            begun.add([b"forged"])
            assert choice.plan.events == 10
            with pytest.raises(exports.ExportBroken):
                exports.export(io.BytesIO(), begun, choice, factories.SYSTEM)
            begun.begin(choice.plan.digest(), str(choice.plan.checkpoint))
            exports.export(io.BytesIO(), begun, choice, factories.SYSTEM)
            (begun.folder / "events.000000").write_bytes(b"x\n")
            with pytest.raises(work.Damaged):
                exports.export(io.BytesIO(), begun, choice, factories.SYSTEM)


def test_an_earlier_checkpoint_comes_with_the_export(tmp_path: Path, check: Callable[[bytes, UUID], str]) -> None:
    tenant = factories.tenant().id
    for count in (4, 3, 2):
        write(tenant, count)
        run()
    wanted = exports.Wanted(tenant_id=tenant)

    def previous(data: bytes) -> int:
        return int(files_of(data)["checkpoint.previous"].split(b"\n")[1])

    first = done(wanted, tmp_path)
    assert previous(first) == 7  # the one before
    assert "holds" in check(first, tenant)
    write(tenant, 5)
    run()
    write(tenant, 5)
    run()
    later = done(wanted, tmp_path)
    assert previous(later) == 9  # that of the last export
    assert "holds" in check(later, tenant)
    assert previous(done(exports.Wanted(tenant_id=tenant, since_size=4), tmp_path)) == 4
    with pytest.raises(Invalid) as refused:
        done(exports.Wanted(tenant_id=tenant, since_size=5), tmp_path)
    assert refused.value.param == "since_size"
    assert "4" in refused.value.message
