"""Our files, read by verifiers that nobody here wrote."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from kasbah.audit.log.note import Checkpoint, Note, sign
from kasbah.audit.log.rotation import statement
from tests.audit.bundles import Signed, event, signed

PREFIX = bytes.fromhex("302a300506032b6570032100")  # SubjectPublicKeyInfo of Ed25519 (RFC 8410)
SOURCE = Path(__file__).with_name("go") / "check.go"


@pytest.fixture
def log(tmp_path: Path) -> Signed:
    return signed(tmp_path / "log", [event(number) for number in range(700)])


def unpacked(log: Signed, folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(log.bundle())) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Go's own reading of an unpacked export, built from Debian's sources of golang.org/x/mod."""
    made = tmp_path_factory.mktemp("go") / "check"
    environment = {
        "PATH": os.environ["PATH"],
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOCACHE": str(made.with_name("cache")),
    }
    build = [os.environ["KASBAH_TEST_GO"], "build", "-o", str(made), SOURCE.name]
    subprocess.run(build, cwd=SOURCE.parent, env=environment, check=True, timeout=300)

    def run(folder: Path, log: Signed) -> subprocess.CompletedProcess[str]:
        command = [str(made), str(folder), log.key.vkey()]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    return run


@pytest.mark.go
@pytest.mark.slow
def test_go_accepts_our_notes_tiles_and_leaves(
    go: Callable[..., subprocess.CompletedProcess[str]], log: Signed, tmp_path: Path
) -> None:
    folder = unpacked(log, tmp_path / "export")
    done = go(folder, log)
    assert (done.returncode, done.stdout) == (0, "700 700\n"), done.stderr
    events = folder / "events.jsonl"
    events.write_bytes(events.read_bytes().replace(b"key.created", b"key.revoked", 1))
    assert "event 0" in go(folder, log).stderr
    shutil.copy(unpacked(log, tmp_path / "again") / "events.jsonl", events)
    tile = folder / "tile/0/001"
    tile.write_bytes(bytes(32) + tile.read_bytes()[32:])
    assert go(folder, log).returncode == 1
    other = signed(tmp_path / "other", log.events)
    assert go(unpacked(log, tmp_path / "third"), other).returncode == 1  # another key


@pytest.mark.go
@pytest.mark.slow
def test_go_accepts_each_checkpoint_by_the_key_of_its_time(
    go: Callable[..., subprocess.CompletedProcess[str]], log: Signed, tmp_path: Path
) -> None:
    old = signed(tmp_path / "old", log.events[:300])
    change = succession(old, log)
    for at, one in enumerate((old, log)):
        folder = tmp_path / str(at)
        with zipfile.ZipFile(io.BytesIO(one.bundle(successions=[change], manifest_by=log.private))) as archive:
            archive.extractall(folder)
        assert go(folder, one).returncode == 0
        assert go(folder, log if one is old else old).returncode == 1


def succession(old: Signed, new: Signed) -> str:
    """The note by which one key hands over to the next."""
    text = statement(Checkpoint.parse(old.checkpoint().text), old.key, new.key)
    return str(Note(text, tuple(sign(text, each.key, each.private.sign) for each in (old, new))))


def test_openssl_accepts_both_signatures_of_a_succession(log: Signed, tmp_path: Path) -> None:
    old = signed(tmp_path / "old", log.events[:300])
    change = Note.parse(succession(old, log))
    for each, signature in zip((old, log), change.signatures, strict=True):
        assert openssl(tmp_path, each.key.public, change.text, signature.value)
        assert not openssl(tmp_path, each.key.public, change.text + "x", signature.value)


def openssl(folder: Path, public: bytes, text: str, signature: bytes) -> bool:
    """What `openssl pkeyutl` says of an Ed25519 signature."""
    (folder / "key.der").write_bytes(PREFIX + public)
    (folder / "text").write_bytes(text.encode())
    (folder / "signature").write_bytes(signature)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", str(folder / "key.der")]
    command += ["-rawin", "-in", str(folder / "text"), "-sigfile", str(folder / "signature")]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_openssl_accepts_our_signatures(log: Signed, tmp_path: Path) -> None:
    note = log.checkpoint()
    value = base64.b64decode(str(note).rsplit(" ", 1)[1])[4:]
    assert openssl(tmp_path, log.key.public, note.text, value)
    assert not openssl(tmp_path, log.key.public, note.text.replace("700", "701"), value)
