"""Attacks on the content that an export opens: each is named, also when whoever makes it has the log's key."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kasbah.audit.export.plan import Run
from kasbah.audit.export.verifier import program
from tests.attacks.test_selections import resigned
from tests.audit.bundles import ORIGIN, Signed, event, signed

KEY, SAID = b"k" * 32, b"What is it?"
ERASER = json.loads(event(3))["id"]
PROMPT = "content/req_1.prompt.json"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """An intent that commits to a prompt, its outcome, and an event that tells of an erasure."""
    commitments = {"prompt": hmac.digest(KEY, SAID, "sha256").hex()}
    intent = event(1, type="inference.intent", request_id="req_1", commitments=commitments)
    outcome = event(2, type="inference.outcome", request_id="req_1", intent=json.loads(intent)["id"])
    eraser = event(3, type="content.erased", request_id="req_9")
    return signed(tmp_path_factory.mktemp("log"), [event(0), intent, outcome, eraser])


@pytest.fixture
def check(tmp_path: Path, log: Signed, capsys: pytest.CaptureFixture[str]) -> Callable[[bytes], str]:
    """The name of what fails, else all that is said."""

    def run(data: bytes) -> str:
        (tmp_path / "export.zip").write_bytes(data)
        status = program.main([str(tmp_path / "export.zip"), "--key", log.key.vkey()])
        said = capsys.readouterr()
        return said.out if status == 0 else said.err.partition(":")[0]

    return run


def opened(key: bytes = KEY, said: bytes | None = SAID, **fields: Any) -> bytes:
    shown = {"request_id": "req_1", "part": "prompt", "opening": base64.b64encode(key).decode()}
    return json.dumps(shown | {"bytes": None if said is None else base64.b64encode(said).decode(), **fields}).encode()


def erasure(reason: str = "data_subject", by: str = ERASER) -> bytes:
    said = {"request_id": "req_1", "part": "prompt", "at": "2026-11-01T00:00:00Z", "reason": reason, "event": by}
    return json.dumps(said).encode() + b"\n"


def bundle(log: Signed, files: dict[str, bytes], runs: list[Run] | None = None) -> bytes:
    """The dossier of the request, with what is asked to be opened beside it."""
    selection = {"kind": "request", "by": "req_1"}
    plan = log.plan(selection=selection, runs=runs or [Run(1, 4)], opened=["prompt"])
    return log.written(plan, [(name, [data]) for name, data in files.items()])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({PROMPT: opened()}, "content    1 parts opened"),
        ({PROMPT: opened(said=None)}, "content    0 parts opened: NOTHING WAS COMPARED"),
        ({PROMPT: opened(said=None)}, "1 parts NOT COMPARED: their openings alone were kept"),
        ({"erasures.jsonl": erasure()}, "erased     1 parts of requests: data_subject"),
        (
            {"content/unopened.json": b'[{"request_id":"req_1","part":"prompt","reason":"altered"}]'},
            f"unopened   {PROMPT}: altered",
        ),
        ({PROMPT: opened(said=None), "erasures.jsonl": erasure("level_commitment")}, "level_commitment"),
    ],
)
def test_what_is_there_or_declared_holds(
    check: Callable[[bytes], str], log: Signed, files: dict[str, bytes], said: str
) -> None:
    assert said in check(bundle(log, files))


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({}, "content_missing"),
        ({PROMPT: opened(said=b"What else?")}, "content_mismatch"),
        ({PROMPT: opened(key=b"K" * 32)}, "content_mismatch"),
        ({PROMPT: opened(request_id="req_2")}, "content_mismatch"),
        ({PROMPT: opened(), "content/req_2.prompt.json": opened(request_id="req_2")}, "content_mismatch"),
        ({PROMPT: opened(), "erasures.jsonl": erasure()}, "content_survives_erasure"),
        ({PROMPT: opened(), "erasures.jsonl": erasure("level_commitment")}, "content_survives_erasure"),
        ({"erasures.jsonl": erasure(by="0199c1f2-7a3b-7c4d-8e5f-0123456789ab")}, "erasure_unproven"),
        ({"erasures.jsonl": erasure(by=json.loads(event(0))["id"])}, "erasure_unproven"),  # no erasure
    ],
)
def test_whoever_has_the_key_is_caught_too(
    check: Callable[[bytes], str], log: Signed, files: dict[str, bytes], error: str
) -> None:
    assert check(bundle(log, files)) == error


def test_an_erasure_is_proven_by_an_event_that_is_not_shown(check: Callable[[bytes], str], log: Signed) -> None:
    from kasbah.audit.export.bundle import inclusion

    files, runs = {"erasures.jsonl": erasure()}, [Run(1, 3)]
    assert check(bundle(log, files, runs)) == "erasure_unproven"
    plan = log.plan(selection={"kind": "request", "by": "req_1"}, runs=runs)
    files |= {"evidence/3.json": log.events[3], "evidence/3.tlog-proof": inclusion(plan, 3, log.tree().node)}
    assert "erased     1 parts" in check(bundle(log, files, runs))


def test_an_event_that_names_the_request_is_enough(check: Callable[[bytes], str], log: Signed, tmp_path: Path) -> None:
    """Whoever has the key leaves the erasure out of his list, and opens what he kept."""
    eraser = event(3, type="content.erased", details={"requests": ["req_1"]})
    erased = signed(tmp_path / "erased", [*log.events[:3], eraser], log.private)
    assert check(bundle(erased, {PROMPT: opened()})) == "content_survives_erasure"
    assert "1 parts opened" in check(bundle(log, {PROMPT: opened()}))  # the negative control


def test_a_dossier_is_what_its_digests_name(check: Callable[[bytes], str], log: Signed) -> None:
    manifest = [{"path": "a", "sha256": "a" * 64, "size": 1}]
    digest = hashlib.sha256(json.dumps(manifest, separators=(",", ":"), sort_keys=True).encode()).hexdigest()
    made = json.dumps({"manifest": manifest}).encode()
    kept = {PROMPT: opened()}
    assert "dossier    1 documents" in check(bundle(log, {**kept, f"dossier/model-{digest}.json": made}))
    other = made.replace(b'"size": 1', b'"size": 2')
    assert check(bundle(log, {**kept, f"dossier/model-{digest}.json": other})) == "dossier_differs"
    policy = json.dumps({"document": {}, "digest": digest}).encode()
    assert check(bundle(log, {**kept, "dossier/policy-1.json": policy})) == "dossier_differs"


def test_the_manifest_says_what_was_to_be_opened(check: Callable[[bytes], str], log: Signed) -> None:
    """The negative control: content that nobody asked for is not missing."""

    def ask_for_nothing(_files: dict[str, bytes], manifest: dict[str, Any]) -> None:
        manifest["opened"] = []

    assert check(bundle(log, {})) == "content_missing"
    assert check(resigned(log, bundle(log, {}), ask_for_nothing)).endswith("holds\n")


def test_events_of_the_installations_log_are_in_it(check: Callable[[bytes], str], log: Signed, tmp_path: Path) -> None:
    from kasbah.audit.log import merkle, note
    from kasbah.audit.log.tiles import TileFolder, TileTree

    origin = ORIGIN.rsplit("/", 1)[0] + "/system"
    approved, other = b'{"type":"model.approved"}', b'{"type":"model.rejected"}'
    TileFolder(tmp_path / "system").extend(0, [merkle.leaf_hash(one) for one in (approved, other)])
    tree = TileTree(2, TileFolder(tmp_path / "system").read)
    text = note.Checkpoint(origin, 2, merkle.range_root(0, 2, tree.node)).text()

    def bundled(private: Any, data: bytes = approved, index: int = 0) -> bytes:
        key = note.Key(origin, note.ED25519, private.public_key().public_bytes_raw())
        signed_note = note.Note(text, (note.sign(text, key, private.sign),))
        proof = note.tlog_proof(index, merkle.inclusion_proof(0, 2, tree.node), str(signed_note)).encode()
        files = {"dossier/system/0.json": data, "dossier/system/0.tlog-proof": proof}
        return bundle(log, {PROMPT: opened(), **files})

    assert "1 events of the installation's log" in check(bundled(log.private))
    assert check(bundled(log.private, other)) == "proof_invalid"
    assert check(bundled(log.private, index=1)) == "proof_invalid"
    assert check(bundled(Ed25519PrivateKey.generate())) == "unknown_key"
