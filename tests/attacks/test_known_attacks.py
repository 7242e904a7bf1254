"""The table of the known attacks is true; and those of them that are not shown elsewhere."""

from __future__ import annotations

import ast
import base64
import hashlib
import hmac
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_worker.contract import canonical
from kasbah.audit.export import bundle as bundling
from kasbah.audit.export.verifier import archive, joined, program
from kasbah.audit.log import note
from kasbah.audit.log.note import Note
from tests.audit.bundles import ORIGIN, Signed, altered, event, signed

ROOT = Path(__file__).resolve().parents[2]
TABLE = (ROOT / "docs/auditor/attacks.md").read_text(encoding="utf-8")
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and "::" in line]
TEST = re.compile(r"`(tests/[a-z_/]+\.py)::(test_[a-z_]+)`")
KNOWN = 30  # attacks that the design names


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[bytes, Signed], str]:
    """The name of what fails, "" when all holds."""

    def check(data: bytes, log: Signed) -> str:
        (tmp_path / "export.zip").write_bytes(data)
        program.main([str(tmp_path / "export.zip"), "--key", log.key.vkey()])
        return capsys.readouterr().err.partition(":")[0]

    return check


def names_of(text: str) -> set[str]:
    """Names with which the verifier may fail."""
    return set(re.findall(r'(?:Failed\(\s*|name = |BROKEN = )"([a-z_]+)"', text)) | {"split_view"}


def test_every_attack_has_a_test_and_a_name_that_there_are() -> None:
    assert len(ROWS) >= KNOWN
    names = names_of(joined.program())
    for row in ROWS:
        _, _, stops, tests, _ = (cell.strip() for cell in row.split("|"))
        named = set(re.findall(r"`([a-z_]+)`", stops))
        assert named or "guard" in stops, row
        assert named <= names, (row, named - names)
        assert TEST.findall(tests), row
        for path, test in TEST.findall(tests):
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            assert test in {getattr(node, "name", "") for node in tree.body}, (path, test)


def test_the_reading_of_the_table_sees_what_is_missing() -> None:
    assert "no_such_name" not in names_of(joined.program())
    assert "event_changed" in names_of(joined.program())
    assert not TEST.findall("`tests/attacks/test_export.py`")


def test_a_signed_event_with_a_key_twice(
    tmp_path: Path, run: Callable[[bytes, Signed], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Our own exporter refuses what is not canonical; somebody with the key has a program that does not.
    monkeypatch.setattr(bundling, "_parsed", lambda data, _work: json.loads(data))
    twice = event(2).replace(b'{"actor"', b'{"actor":{},"actor"', 1)
    log = signed(tmp_path / "log", [event(1), twice, event(3)])
    assert json.loads(twice) == json.loads(event(2))
    assert run(log.bundle(), log) == "event_not_canonical"


def resigned(log: Signed, files: dict[str, bytes]) -> None:
    """A manifest for these files by who has the key."""
    manifest = json.loads(files["MANIFEST.json"])
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in files.items()
        if not name.startswith("MANIFEST")
    }
    files["MANIFEST.json"] = canonical.dumps(manifest)
    text = f"{archive.FORMAT}\n{ORIGIN}\n{hashlib.sha256(files['MANIFEST.json']).hexdigest()}\n"
    files["MANIFEST.note"] = str(Note(text, (note.sign(text, log.key, log.private.sign),))).encode()


def test_a_filtered_export(tmp_path: Path, run: Callable[[bytes, Signed], str]) -> None:
    """The operator himself leaves out what he would rather not show, and signs what is left."""
    log = signed(tmp_path / "log", [event(number) for number in range(300)])

    def leave_out(files: dict[str, bytes]) -> None:
        for path in ("events.jsonl", "views/events.csv"):
            lines = files[path].splitlines(keepends=True)
            del lines[10:20]
            files[path] = b"".join(lines)
        resigned(log, files)

    def nothing(files: dict[str, bytes]) -> None:
        resigned(log, files)

    assert run(altered(log.bundle(), nothing), log) == ""
    assert run(altered(log.bundle(), leave_out), log) == "event_missing"


def test_opened_content_that_was_swapped_or_survives(tmp_path: Path, run: Callable[[bytes, Signed], str]) -> None:
    opening, value = b"k" * 32, b"the prompt"
    commitment = hmac.new(opening, value, hashlib.sha256).hexdigest()
    request = event(1, request_id="req_1", commitments={"prompt": commitment})
    told = event(2, type="content.erased")
    log = signed(tmp_path / "log", [request, told])
    erasure = {"event": json.loads(told)["id"], "request_id": "req_1", "part": "prompt", "reason": "ceiling"}

    def opened(of: bytes, *, erased: bool = False) -> Callable[[dict[str, bytes]], None]:
        document = {"bytes": base64.b64encode(of).decode(), "opening": base64.b64encode(opening).decode()}

        def put(files: dict[str, bytes]) -> None:
            document.update(request_id="req_1", part="prompt")
            files["content/req_1.prompt.json"] = canonical.dumps(document)
            if erased:
                files["erasures.jsonl"] = canonical.dumps(erasure) + b"\n"
            resigned(log, files)

        return put

    assert run(altered(log.bundle(), opened(value)), log) == ""
    assert run(altered(log.bundle(), opened(b"another")), log) == "content_mismatch"
    assert run(altered(log.bundle(), opened(value, erased=True)), log) == "content_survives_erasure"


def test_a_key_inside_the_export_is_not_believed(tmp_path: Path, run: Callable[[bytes, Signed], str]) -> None:
    log = signed(tmp_path / "log", [event(1)])
    forged = signed(tmp_path / "forged", [event(1, reason="rewritten")], Ed25519PrivateKey.generate())

    def bring(files: dict[str, bytes]) -> None:
        files["key"] = files["VERIFY.md"] = forged.key.vkey().encode()
        resigned(forged, files)

    assert run(altered(forged.bundle(), bring), log) == "unknown_key"
    assert run(altered(forged.bundle(), bring), forged) == ""  # the control: who believes that key is deceived
    assert run(altered(log.bundle(), lambda files: files.update({"key": b"x"})), log) == "file_unknown"
