"""Proofs by the API, the command that looks after the logs, and what changed rows look like to it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from kasbah.audit.export.verifier import program
from kasbah.audit.log import keys, merkle, sequencer
from kasbah.audit.log.models import Leaf, Log
from kasbah.audit.log.note import Checkpoint, Key, Note
from kasbah.audit.models import Intake
from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls
from kasbah.common.ids import uuid7
from kasbah.identity.models import Role, Tenant
from tests import factories
from tests.audit.logs import WHO, run, unguarded, write

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def client(tenant: UUID) -> Client:
    auditor = factories.user()
    with rls.platform_scope():
        of = Tenant.objects.get(pk=tenant)
    factories.membership(of, auditor, Role.AUDITOR)
    client = Client(headers={"accept": "application/json"})
    client.force_login(auditor)
    client.defaults["slug"] = of.slug
    return client


def get(client: Client, path: str, **query: Any) -> Any:
    answer = client.get(f"/api/tenants/{client.defaults['slug']}/audit-log/{path}", query)
    return answer.status_code, answer.json()


def prove(client: Client, event: object) -> Any:
    answer = client.get(f"/api/tenants/{client.defaults['slug']}/audit-events/{event}/proof/")
    return answer.status_code, answer.json()


def test_an_event_is_proved_to_whoever_has_the_key_alone(client: Client, tenant: UUID) -> None:
    events = write(tenant, 300)
    waits = prove(client, events[0])
    assert waits[0] == 503
    assert "within a second" in waits[1]["error"]["message"]
    run()
    status, shown = get(client, "")
    assert (status, shown["size"], shown["waiting"]) == (200, 300, 0)
    key = Key.parse(shown["key"])
    status, found = prove(client, events[7])
    assert status == 200
    lines, checkpoint = found["proof"].split("\n\n", 1)
    head, index, *hashes = lines.split("\n")
    note = Note.parse(checkpoint)
    said = Checkpoint.parse(note.text)
    assert note.verified([key]) == {key: 0}
    with rls.platform_scope():
        event = bytes(Intake.objects.get(pk=events[7]).event)
    root = merkle.root_from_inclusion(
        merkle.leaf_hash(event), int(index.removeprefix("index ")), said.size, [base64.b64decode(one) for one in hashes]
    )
    assert (head, root) == ("c2sp.org/tlog-proof@v1", said.root)
    assert (found["leaf_hash"], found["index"]) == (merkle.leaf_hash(event).hex(), 7)


def test_an_auditor_gets_an_export(
    client: Client, tenant: UUID, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"/api/tenants/{client.defaults['slug']}/audit-log/export/"
    assert client.get(path).status_code == 404  # nothing is signed yet
    write(tenant, 4)
    run()
    answer = client.get(path)
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/zip")
    (tmp_path / "export.zip").write_bytes(answer.content)
    key = keys.log_key(f"test/audit/{tenant}").vkey()
    assert program.main([str(tmp_path / "export.zip"), "--key", key]) == 0
    assert factories.events_of(tenant)[-1]["type"] == "audit.exported"
    assert client.get(path, {"from": "yesterday"}).json()["error"]["param"] == "from"
    person = str(uuid7())
    for query, param in (
        ({"person": person}, "person"),
        ({"person": "ada"}, "person"),
        ({"model": "m"}, "model"),
        ({"request": "req_1", "model": "ab" * 32}, "request"),
        ({"open": "prompt"}, "open"),
        ({"request": "req_1", "open": "all of it"}, "open"),
        ({"since_size": "99"}, "since_size"),
    ):
        refused = client.get(path, query)
        assert (refused.status_code in (400, 404), refused.json()["error"]["param"]) == (True, param), query
    resource = Resource("user", person)
    with rls.tenant_scope(tenant):
        record(Event(type=EventType.USER_CHANGED, tenant_id=tenant, actor=WHO, resource=resource))
    run()
    answer = client.get(path, {"person": person})
    assert "person-" in answer["Content-Disposition"]
    (tmp_path / "person.zip").write_bytes(answer.content)
    assert program.main([str(tmp_path / "person.zip"), "--key", key]) == 0
    monkeypatch.setattr("kasbah.audit.export.api.MOST", 3)
    long = client.get(path)
    assert (long.status_code, long.json()["error"]["param"]) == (400, "from")
    assert "auditexport" in long.json()["error"]["message"]


def test_the_log_only_grows(client: Client, tenant: UUID) -> None:
    write(tenant, 5)
    run()
    before = Checkpoint.parse(Note.parse(get(client, "")[1]["checkpoint"]).text)
    write(tenant, 4)
    run()
    after = Checkpoint.parse(Note.parse(get(client, "")[1]["checkpoint"]).text)
    status, found = get(client, "consistency/", **{"from": before.size, "to": after.size})
    assert status == 200
    proof = [base64.b64decode(one) for one in found["hashes"]]
    merkle.check_consistency(before.size, before.root, after.size, after.root, proof)
    status, error = get(client, "consistency/", **{"from": 5, "to": 10})
    assert (status, error["error"]["param"]) == (400, "from")
    assert get(client, "consistency/", **{"from": "x", "to": 1})[0] == 400


def test_what_does_not_exist_or_is_anothers_is_the_same(client: Client, tenant: UUID) -> None:
    other = factories.tenant().id
    theirs = write(other, 1)
    write(tenant, 1)
    run()
    foreign = prove(client, theirs[0])
    missing = prove(client, "0199c1f2-7a3b-7c4d-8e5f-0123456789ab")
    assert foreign[0] == missing[0] == 404
    assert foreign[1]["error"]["message"] == missing[1]["error"]["message"]


def check() -> str:
    """The problems that the command names; "" when there are none."""
    try:
        call_command("auditlog", "check")
    except CommandError as error:
        return str(error)
    return ""


def test_check_names_what_was_changed(
    tenant: UUID,
    superuser: psycopg.Connection[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    events = write(tenant, 6)
    run()
    run()
    assert check() == ""
    capsys.readouterr()
    call_command("auditlog", "status", "--json")
    shown = {row["origin"]: row for row in json.loads(capsys.readouterr().out)}
    assert shown[f"test/audit/{tenant}"]["size"] == 6
    with unguarded(superuser) as execute:
        execute("UPDATE audit_intake SET event = event || 'x' WHERE id = %s", [events[2]])
        assert "(index 2) was changed" in check()
        execute("DELETE FROM audit_intake WHERE id = %s", [events[2]])
        assert "(index 2) is gone" in check()


def test_check_sees_another_tree_and_a_lost_memory(tenant: UUID, superuser: psycopg.Connection[Any]) -> None:
    write(tenant, 3)
    run()
    run()
    with rls.platform_scope():
        log = Log.objects.get(tenant_id=tenant)
        kept = bytes(Leaf.objects.get(log=log, index=1).hash)
    memory = sequencer.folder() / "memory"
    files = {path: path.read_bytes() for path in memory.glob("*.json")}
    for path in files:
        path.unlink()
    assert "remembers nothing" in check()
    with pytest.raises(CommandError, match="Name the log"):
        call_command("auditlog", "trust")
    call_command("auditlog", "trust", "--log", log.origin)
    assert log.origin + ":" not in check()
    with rls.platform_scope():
        last = json.loads(bytes(Intake.objects.filter(tenant_id=None).order_by("-id")[0].event))
    assert (last["type"], last["resource"]["id"], last["details"]["size"]) == ("log.trusted", log.origin, 3)
    execute: Any = superuser.execute
    execute("ALTER TABLE audit_leaf DISABLE TRIGGER audit_leaf_insert_only")
    execute("UPDATE audit_leaf SET hash = %s WHERE log_id = %s AND index = 1", [bytes(32), log.pk])
    found = check()
    execute("UPDATE audit_leaf SET hash = %s WHERE log_id = %s AND index = 1", [kept, log.pk])
    execute("ALTER TABLE audit_leaf ENABLE ALWAYS TRIGGER audit_leaf_insert_only")
    for part in ("(index 1) was changed", "not the one that the log was grown to", "about another tree"):
        assert part in found


def test_tiles_can_be_written_again(client: Client, tenant: UUID) -> None:
    events = write(tenant, 4)
    run()
    run()
    for path in (sequencer.folder() / "tiles").rglob("*.p/*"):
        path.unlink()
    assert prove(client, events[0])[0] == 503
    assert "there is no tile" in check()
    call_command("auditlog", "tiles")
    assert prove(client, events[0])[0] == 200
    assert check() == ""
