"""Rows of the log that were altered past the platform: every way in names it, and none gives them away.

Each alteration is made by a superuser with the guards switched off. What is told is the same by the API, an export, the
commands and the sequencer: a name, never a 500 or a traceback.
"""
# ruff: noqa: S608 - statements of constants

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import CommandError, call_command
from django.test import Client

from kasbah.audit.log import keys, note, proofs, sequencer
from kasbah.audit.log.models import Log, SignedCheckpoint
from kasbah.audit.log.note import COSIGNATURE, Key, Note
from kasbah.audit.log.stored import LogAltered
from kasbah.audit.tasks import sequence_log
from kasbah.common import rls
from kasbah.common.errors import Unavailable
from kasbah.identity.models import Role, Tenant
from tests import factories
from tests.audit.logs import run, write

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
GUARDED = ["audit_checkpoint", "audit_leaf", "audit_intake", "audit_keysuccession", "audit_cosignature", "audit_pruned"]
GUARDS = """
    SELECT tgrelid::regclass::text, tgname FROM pg_trigger
    WHERE NOT tgisinternal AND tgenabled = 'A' AND tgrelid::regclass::text = ANY(%s)
"""
LINE = """
    INSERT INTO audit_cosignature (id, tenant_id, checkpoint_id, witness, line)
    SELECT gen_random_uuid(), tenant_id, id, 'w', {line} FROM audit_checkpoint WHERE {newest}
"""
TURN = """
    INSERT INTO audit_keysuccession (id, tenant_id, log_id, size, old, new, note)
    VALUES (gen_random_uuid(), '{tenant}', '{log}', 9, 'junk', 'junk', {note})
"""
GONE = """
    INSERT INTO audit_pruned (id, tenant_id, log_id, start, "end", event_id)
    VALUES (gen_random_uuid(), '{tenant}', '{log}', 0, 3, {event})
"""
NOTE = "UPDATE audit_checkpoint SET note = {to} WHERE {row}"
NEWEST, OLDER = "log_id = '{log}' AND size = 9", "log_id = '{log}' AND size = 5"
EVENT = "UPDATE audit_intake SET type = 'audit.exported', event = convert_to({to}, 'UTF8') WHERE id = '{last}'"
# What is done, and a part of what the check must say.
ALTERED: dict[str, tuple[str, str]] = {
    "newest is no note": (NOTE.format(to="'junk'", row=NEWEST), "the checkpoint of 9 events: a note has"),
    "newest is empty": (NOTE.format(to="''", row=NEWEST), "the checkpoint of 9 events: a note has"),
    "newest has another size": (
        NOTE.format(to="replace(note, E'\\n9\\n', E'\\n8\\n')", row=NEWEST),
        "the checkpoint of 9 events is about another tree",
    ),
    "newest has 5,000 digits": (
        NOTE.format(to="replace(note, E'\\n9\\n', E'\\n' || repeat('9', 5000) || E'\\n')", row=NEWEST),
        "the checkpoint of 9 events: a checkpoint has a decimal size",
    ),
    "newest is an older one": (
        NOTE.format(to="(SELECT note FROM audit_checkpoint WHERE " + OLDER + ")", row=NEWEST),
        "the checkpoint of 9 events is about another tree",
    ),
    "newest's signature": (
        NOTE.format(to="regexp_replace(note, '.{{4}}=\\n$', E'AAA=\\n')", row=NEWEST),
        "the checkpoint of 9 events: ",
    ),
    "newest's row": ("UPDATE audit_checkpoint SET root = '\\x00' WHERE " + NEWEST, "9 events is about another tree"),
    "newest's size": ("UPDATE audit_checkpoint SET size = 8 WHERE " + NEWEST, "8 events is about another tree"),
    "newest is gone": ("DELETE FROM audit_checkpoint WHERE " + NEWEST, "the newest checkpoint is about another tree"),
    "an older one is no note": (NOTE.format(to="'junk'", row=OLDER), "the checkpoint of 5 events: a note has"),
    "an older one's size": ("UPDATE audit_checkpoint SET size = 3 WHERE " + OLDER, "3 events is about another tree"),
    "an older one is gone": ("DELETE FROM audit_checkpoint WHERE " + OLDER, "of which the system log tells, is gone"),
    "a witness's line": (LINE.format(line="'junk'", newest=NEWEST), "the line of w on the checkpoint of 9 events"),
    "a witness of another name": (
        LINE.format(line="E'{dash} v AAAAAAAAAAAAAAAA\\n'", newest=NEWEST),
        "the line of w on the checkpoint of 9 events is not one line of this witness",
    ),
    "two lines of a witness": (
        LINE.format(line="E'{dash} w AAAAAAAAAAAAAAAA\\n{dash} w AAAAAAAAAAAAAAAA\\n'", newest=NEWEST),
        "the line of w on the checkpoint of 9 events is not one line of this witness",
    ),
    "the log's key": ("UPDATE audit_log SET key = 'junk' WHERE id = '{log}'", "not a verifier key"),
    "no key and no note": (
        "UPDATE audit_log SET key = '' WHERE id = '{log}'; " + NOTE.format(to="'junk'", row=NEWEST),
        "the checkpoint of 9 events: a note has",
    ),
    "the log's name": ("UPDATE audit_log SET origin = 'x y' WHERE id = '{log}'", "the log's name is not"),
    "its tree": ("UPDATE audit_log SET frontier = '\\x00' WHERE id = '{log}'", "not the one that the log was grown to"),
    "its size": ("UPDATE audit_log SET size = 4 WHERE id = '{log}'", "leaves between"),
    "a size beyond": ("UPDATE audit_log SET size = 20, tiled = 20 WHERE id = '{log}'", "leaves between"),
    "how far tiles are": ("UPDATE audit_log SET tiled = 2 WHERE id = '{log}'", "there is no tile/0/000.p/2"),
    "a change of keys": (TURN.replace("{note}", "'junk'"), "junk"),
    "a key that was revoked": (TURN.replace("{note}", "''"), "not a verifier key"),
    "what was pruned": (GONE.replace("{event}", "gen_random_uuid()"), "no event tells that 0 to 3 were pruned"),
    "an event of no type": (EVENT.replace("{to}", "'[]'"), "(index 8) was changed"),
    "an event of another shape": (
        EVENT.replace("{to}", "'{{\"details\":{{\"size\":\"' || repeat('9', 50) || '\"}}}}'"),
        "(index 8) was changed",
    ),
    "half of a character": (EVENT.replace("{to}", '\'{{"id":"\\ud800"}}\''), "(index 8) was changed"),
}


@dataclass
class Scene:
    """A tenant's log of nine events under two checkpoints, and its auditor."""

    client: Client
    tenant: Tenant
    log: Log
    first: UUID
    last: UUID
    folder: Path

    def ways(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """All that reads the log for somebody."""
        path = f"/api/tenants/{self.tenant.slug}"
        for name, query in (
            ("audit-log/", {}),
            (f"audit-events/{self.first}/proof/", {}),
            (f"audit-events/{self.last}/proof/", {}),
            ("audit-log/consistency/", {"from": 5, "to": 9}),
            ("audit-events/", {}),
            ("audit-log/export/", {}),
            ("audit-log/export/", {"since_size": 5}),
        ):
            yield name, lambda name=name, query=query: self.client.get(f"{path}/{name}", query).status_code
        witness = Key("w", COSIGNATURE, bytes(range(32))).vkey()
        carried = ["--log", self.log.origin, "--witness", witness, "--file", str(self.folder / "asked")]
        for args in (
            ["auditlog", "status"],
            ["auditlog", "ask", *carried],
            ["auditexport", "--tenant", self.tenant.slug, "--output", str(self.folder / "a.zip")],
        ):
            yield args[0], lambda args=args: called(*args)
        yield "dossier", self.prove

    def prove(self) -> str:
        """As a dossier does."""
        try:
            with rls.platform_scope():
                proofs.first_inclusion(self.tenant.id, self.first)
        except (LogAltered, Unavailable) as error:
            return str(error)
        return ""


def called(*arguments: str) -> str:
    """What a command complains of; "" when it does not."""
    try:
        call_command(*arguments)
    except CommandError as error:
        return str(error)
    return ""


@pytest.fixture
def scene(tenant: UUID, tmp_path: Path) -> Scene:
    auditor = factories.user()
    with rls.platform_scope():
        of = Tenant.objects.get(pk=tenant)
    factories.membership(of, auditor, Role.AUDITOR)
    client = Client(headers={"accept": "application/json"}, raise_request_exception=False)
    client.force_login(auditor)
    first = write(tenant, 5)[0]
    run()
    last = write(tenant, 4)[-1]
    run()
    run()
    with rls.platform_scope():
        log = Log.objects.get(tenant_id=tenant)
    return Scene(client, of, log, first, last, tmp_path)


@contextmanager
def alter(superuser: psycopg.Connection[Any], statement: str) -> Iterator[None]:
    """A superuser who switches off what keeps the log."""
    execute: Any = superuser.execute
    guards = execute(GUARDS, [GUARDED]).fetchall()
    execute("SET session_replication_role = replica")
    for table, name in guards:
        execute(f'ALTER TABLE {table} DISABLE TRIGGER "{name}"')
    try:
        execute(statement)
    finally:
        for table, name in guards:
            execute(f'ALTER TABLE {table} ENABLE ALWAYS TRIGGER "{name}"')
        execute("SET session_replication_role = origin")
    yield


@pytest.mark.parametrize(("statement", "said"), ALTERED.values(), ids=ALTERED.keys())
def test_what_was_altered_has_a_name_wherever_it_is_read(
    statement: str, said: str, scene: Scene, superuser: psycopg.Connection[Any]
) -> None:
    assert called("auditlog", "check") == ""
    filled = statement.format(log=scene.log.pk, tenant=scene.tenant.id, last=scene.last, dash="\u2014")
    with alter(superuser, filled):
        assert said in called("auditlog", "check")
        for name, way in scene.ways():
            assert way() != 500, name
        write(scene.tenant.id)
        sequence_log()


def test_a_rewritten_checkpoint_is_not_the_one_that_the_system_log_tells_of(
    scene: Scene, superuser: psycopg.Connection[Any]
) -> None:
    with alter(superuser, ALTERED["newest's row"][0].replace("size = 9", "size = 5").format(log=scene.log.pk)):
        assert "the checkpoint of 5 events, of which the system log tells, is another" in called("auditlog", "check")


def test_head_proof_and_export_name_an_altered_checkpoint(
    scene: Scene,
    superuser: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with alter(superuser, ALTERED["newest has another size"][0].format(log=scene.log.pk)):
        path = f"/api/tenants/{scene.tenant.slug}"
        for name in ("audit-log/", f"audit-events/{scene.first}/proof/", "audit-log/export/"):
            answer = scene.client.get(f"{path}/{name}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (409, "log_altered"), name
            assert "the checkpoint of 9 events is about another tree" in answer.json()["error"]["message"]
        capsys.readouterr()
        assert called("auditlog", "status", "--json") == ""
        shown = {row["origin"]: row["altered"] for row in json.loads(capsys.readouterr().out)}
        assert "about another tree" in shown[scene.log.origin]
        monkeypatch.setattr(proofs, "read_checkpoint", lambda row: row)  # the control: without it, it is given away
        assert scene.client.get(f"{path}/audit-log/").status_code == 200


def test_a_witness_whose_key_is_known_is_held_to_it(
    scene: Scene, superuser: psycopg.Connection[Any], settings: Any
) -> None:
    private = Ed25519PrivateKey.generate()
    witness = Key("w", COSIGNATURE, private.public_key().public_bytes_raw())
    settings.WITNESSES = f"{witness.vkey()} http://127.0.0.1:9"
    with rls.platform_scope():
        text = Note.parse(SignedCheckpoint.objects.get(log=scene.log, size=9).note).text
    good = note.sign(text, witness, private.sign, time=1).line()
    other = note.sign(text + "x\n", witness, private.sign, time=1).line()
    for line, said in ((good, ""), (other, "the line of w on the checkpoint of 9 events: the signature")):
        with alter(superuser, "DELETE FROM audit_cosignature"):
            pass
        with alter(superuser, LINE.format(line=f"'{line}'", newest=NEWEST.format(log=scene.log.pk))):
            assert said in called("auditlog", "check")
            assert bool(called("auditlog", "check")) is bool(said)
            exported = scene.client.get(f"/api/tenants/{scene.tenant.slug}/audit-log/export/")
            assert exported.status_code == (409 if said else 200)


def test_checkpoints_of_a_key_that_the_log_never_had_are_told_apart(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = keys.held_for
    monkeypatch.setattr(keys, "held_for", lambda origin: [keys.Held(Key(origin, 1, bytes(32)), held(origin)[0].signer)])
    assert "is not signed by this log's key" in called("auditlog", "check")


def test_lost_tiles_of_one_log_keep_no_other_from_its_own(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    other = factories.tenant().id
    write(other)
    run()
    for path in (sequencer.folder() / "tiles" / str(scene.tenant.id)).rglob("*.p/*"):
        path.unlink()
    for _ in range(3):
        write(scene.tenant.id)
        write(other)
        with caplog.at_level(logging.ERROR):
            sequence_log()
    with rls.platform_scope():
        behind = {log.tenant_id: log.size - log.tiled for log in Log.objects.exclude(tenant_id=None)}
    assert (behind[scene.tenant.id], behind[other]) == (3, 0)
    lines = [record.getMessage() for record in caplog.records if "are not written" in record.getMessage()]
    assert len(lines) == 1, "the same is said once"
    assert scene.log.origin in lines[0]
    call_command("auditlog", "tiles")
    assert called("auditlog", "check") == ""


def test_tiles_that_are_lost_or_cannot_be_read_are_a_503(scene: Scene) -> None:
    path = f"/api/tenants/{scene.tenant.slug}"
    tiles = sequencer.folder() / "tiles" / str(scene.tenant.id)
    shutil.rmtree(tiles)
    for _ in range(2):
        for name in (f"audit-events/{scene.first}/proof/", "audit-log/export/"):
            answer = scene.client.get(f"{path}/{name}")
            assert answer.status_code == 503
            assert "KASBAH_AUDIT_DIR" in answer.json()["error"]["message"]
        for args in (["auditexport", "--tenant", scene.tenant.slug, "--output", str(scene.folder / "lost.zip")],):
            assert "KASBAH_AUDIT_DIR" in called(*args)
        (tiles / "tile/0/000.p/9").mkdir(parents=True, exist_ok=True)  # now a folder in its place


def test_a_carried_answer_that_is_no_text_is_a_sentence(scene: Scene) -> None:
    (scene.folder / "carried").write_bytes(b"\xff\xfe\x00")
    witness = Key("w", COSIGNATURE, bytes(range(32))).vkey()
    given = ["--log", scene.log.origin, "--witness", witness]
    assert "is not UTF-8" in called("auditlog", "take", *given, "--file", str(scene.folder / "carried"))
    assert "Is a directory" in called("auditlog", "take", *given, "--file", str(scene.folder))
    assert "Is a directory" in called("auditlog", "ask", *given, "--file", str(scene.folder))
