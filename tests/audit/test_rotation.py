"""The log's key hands over to the next one: who trusts the old key comes to trust the new, and nobody else's."""

from __future__ import annotations

import base64
import secrets
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import CommandError, call_command

from inference_worker.contract.signing import Signer
from kasbah.audit.log import keys, rotation, sequencer, upkeep, witnessing
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.models import KeySuccession, Log, SignedCheckpoint
from kasbah.audit.log.note import Note
from kasbah.audit.services import Event, EventType, receipt
from kasbah.audit.services.receipts import ring
from kasbah.audit.witness.cosigning import Witness
from kasbah.common import env, rls
from kasbah.identity.models import Tenant
from tests import factories
from tests.audit.logs import WHO, run, write

pytestmark = pytest.mark.django_db(transaction=True)
Ring = Callable[..., None]


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Start anew with these keys; the first is KASBAH_AUDIT_KEY."""

    def held(key: bytes, previous: bytes = b"") -> None:
        monkeypatch.setenv("KASBAH_AUDIT_KEY", base64.b64encode(key).decode())
        monkeypatch.setenv("KASBAH_AUDIT_KEY_PREVIOUS", base64.b64encode(previous).decode())
        ring.cache_clear()

    yield held
    monkeypatch.undo()
    ring.cache_clear()


@pytest.fixture
def raw() -> list[bytes]:
    """The key of these tests, and two more."""
    return [env.key_bytes("AUDIT_KEY"), secrets.token_bytes(32), secrets.token_bytes(32)]


def vkey(origin: str, private: bytes) -> str:
    public = Signer.from_raw(private).public.public_bytes_raw()
    return keys.Key(origin, keys.ED25519, public).vkey()


def rotated(tenant: UUID, hold: Ring, raw: list[bytes]) -> str:
    """A log that rotated after each of its first two checkpoints, and went on. Its origin."""
    for at in range(3):
        write(tenant, 5)
        run()
        if at < 2:
            hold(raw[at + 1], raw[at])
            run()  # still by the key before, which this process has too
            rotation.hand_over(WHO)
            run()
    return f"test/audit/{tenant}"


def exported(tenant: UUID, path: Path) -> Path:
    with rls.platform_scope():
        slug = Tenant.objects.get(pk=tenant).slug
    call_command("auditexport", "--tenant", slug, "--output", str(path))
    return path


def verified(path: Path, key: str, *more: str) -> str:
    """What the export's own verify.py prints; the name of what fails."""
    with zipfile.ZipFile(path) as archive:
        path.with_suffix(".py").write_bytes(archive.read("verify.py"))
    command = [sys.executable, "-I", "-S", str(path.with_suffix(".py")), str(path), "--key", key, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else done.stderr.partition(":")[0]


def test_a_log_that_rotated_twice_holds_with_each_of_its_keys(
    tenant: UUID, hold: Ring, raw: list[bytes], tmp_path: Path
) -> None:
    early = Event(type=EventType.AUDIT_READ, tenant_id=tenant, actor=WHO)
    (tmp_path / "receipt").write_text(receipt(early))
    with rls.platform_scope():
        rotation.record(early)
    run()
    with rls.platform_scope():
        (tmp_path / "kept").write_text(SignedCheckpoint.objects.get(tenant_id=tenant).note)
    origin = rotated(tenant, hold, raw)
    path = exported(tenant, tmp_path / "export.zip")
    for one in raw:
        kept = ("--previous", str(tmp_path / "kept"), "--receipt", str(tmp_path / "receipt"))
        said = verified(path, vkey(origin, one), *kept)
        assert "key        changed after 6 events" in said, said
        assert "key        changed after 12 events" in said
    assert verified(path, vkey(origin, secrets.token_bytes(32))) == "unknown_key"
    with rls.platform_scope():
        for row in SignedCheckpoint.objects.filter(tenant_id=tenant):  # other tools: each by the key of its time
            at = 0 if row.size <= 6 else 1 if row.size <= 12 else 2
            key = keys.Key.parse(vkey(origin, raw[at]))
            assert Note.parse(row.note).verified([key]) == {key: 0}
    assert list(upkeep.problems(upkeep.logs()[0])) == []


def test_it_is_on_record_in_every_log(tenant: UUID, hold: Ring, raw: list[bytes]) -> None:
    other = factories.tenant().id
    for each in (tenant, other, None):
        write(each)
    run()
    hold(raw[1], raw[0])
    call_command("auditlog", "rotate-key")
    for each in (tenant, other):
        event = factories.events_of(each)[-1]
        assert (event["type"], event["details"]["size"]) == ("log.key_rotated", 1)
        assert event["details"]["old_key"] == keys.Key.parse(vkey(f"test/audit/{each}", raw[0])).id.hex()
        new = base64.b64decode(event["details"]["new_public_key"])
        assert new == Signer.from_raw(raw[1]).public.public_bytes_raw()
    with rls.platform_scope():
        assert {row.tenant_id for row in KeySuccession.objects.all()} == {tenant, other, None}
    with rls.tenant_scope(tenant):
        assert {row.tenant_id for row in KeySuccession.objects.all()} == {tenant}
    with pytest.raises(CommandError, match="already"):
        call_command("auditlog", "rotate-key")


def test_a_process_without_the_logs_key_signs_nothing(tenant: UUID, hold: Ring, raw: list[bytes]) -> None:
    write(tenant)
    run()
    hold(raw[1])  # the key was merely replaced
    write(tenant)
    with pytest.raises(SignerRefuses, match="KASBAH_AUDIT_KEY_PREVIOUS"):
        sequencer.sequence()
    with pytest.raises(SignerRefuses):
        rotation.hand_over(WHO)
    hold(raw[0])  # one that was not started anew after the hand-over
    run()
    hold(raw[1], raw[0])
    rotation.hand_over(WHO)
    hold(raw[0])
    with pytest.raises(SignerRefuses, match="does not have its key"):
        sequencer.sequence()
    hold(raw[0], raw[1])
    with pytest.raises(SignerRefuses, match="had before"):
        rotation.hand_over(WHO)


def test_a_log_signed_before_its_row_said_by_which_key(tenant: UUID, hold: Ring, raw: list[bytes]) -> None:
    write(tenant)
    run()
    with rls.platform_scope():
        Log.objects.update(key="")
    hold(raw[1])
    write(tenant)
    with pytest.raises(SignerRefuses):
        sequencer.sequence()
    hold(raw[1], raw[0])
    run()
    with rls.platform_scope():
        assert Log.objects.get(tenant_id=tenant).key == vkey(f"test/audit/{tenant}", raw[0])


def test_a_database_that_is_not_what_was_signed_is_not_handed_over(tenant: UUID, hold: Ring, raw: list[bytes]) -> None:
    write(tenant, 3)
    run()
    with rls.platform_scope():
        Log.objects.filter(tenant_id=tenant).update(frontier=bytes(64))
    hold(raw[1], raw[0])
    with pytest.raises(SignerRefuses, match="another tree"):
        rotation.hand_over(WHO)


def test_a_revoked_key_vouches_for_nothing(tenant: UUID, hold: Ring, raw: list[bytes], tmp_path: Path) -> None:
    origin = f"test/audit/{tenant}"
    write(tenant, 5)
    run()
    with rls.platform_scope():
        (tmp_path / "kept").write_text(SignedCheckpoint.objects.get(tenant_id=tenant).note)
    hold(raw[1])
    call_command("auditlog", "rotate-key", "--revoke")
    write(tenant)
    run()
    path = exported(tenant, tmp_path / "export.zip")
    old, new = vkey(origin, raw[0]), vkey(origin, raw[1])
    assert verified(path, old) == "unknown_key"
    assert "holds" in verified(path, new)
    assert verified(path, new, "--previous", str(tmp_path / "kept")) == "unknown_key"
    assert "holds" in verified(path, new, "--previous", str(tmp_path / "kept"), "--previous-key", old)
    [event] = [one for one in factories.events_of(tenant) if one["type"] == "log.key_rotated"]
    assert event["reason"] == "revoked"


def test_a_witness_is_given_the_next_key_beside_the_first(
    tenant: UUID, hold: Ring, raw: list[bytes], tmp_path: Path
) -> None:
    origin = rotated(tenant, hold, raw)
    private = Ed25519PrivateKey.generate()
    with rls.platform_scope():
        log = Log.objects.get(tenant_id=tenant)
        newest = witnessing.newest(log)
        assert newest is not None
        asked = witnessing.request_for(log, newest, 0)
    known = [keys.Key.parse(vkey(origin, one)) for one in raw]
    assert Witness("w.test/w", private, {origin: known[:1]}, tmp_path / "one").add_checkpoint(asked).status == 403
    assert Witness("w.test/w", private, {origin: known}, tmp_path / "all").add_checkpoint(asked).status == 200
