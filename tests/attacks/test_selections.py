"""Selections of a log: what they show is proven, what they leave out is said, and none is passed for the whole."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract import canonical
from kasbah.audit.export.bundle import inclusion
from kasbah.audit.export.plan import Gap, Plan, Run, joined, kept
from kasbah.audit.export.verifier import program
from kasbah.audit.log import note
from tests.audit.bundles import Signed, altered, event, signed

COUNT = 300
PERSON = {"kind": "person", "by": "u7"}
SHOWN = [Run(3, 5), Run(70, 71), Run(256, 299)]
PRUNER = json.loads(event(250))["id"]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """Event 250 tells that 10 to 40 and 60 to 64 were pruned."""
    events = [event(number) for number in range(COUNT)]
    events[250] = event(250, type="log.pruned", details={"ranges": ["10-40", "60-64"]})
    return signed(tmp_path_factory.mktemp("log"), events)


@pytest.fixture
def check(tmp_path: Path, log: Signed, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The name of what fails, else all that is said."""

    def run(data: bytes, *arguments: str) -> str:
        (tmp_path / "export.zip").write_bytes(data)
        status = program.main([str(tmp_path / "export.zip"), "--key", log.key.vkey(), *arguments])
        said = capsys.readouterr()
        return said.out if status == 0 else said.err.partition(":")[0]

    return run


def selection(log: Signed, **fields: Any) -> Plan:
    return log.plan(**{"selection": PERSON, "runs": SHOWN, **fields})


def files_of(bundle: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def resigned(log: Signed, bundle: bytes, change: Callable[[dict[str, bytes], dict[str, Any]], None]) -> bytes:
    """The export as somebody makes it who has the log's key, and whose program writes what he wants."""
    import hashlib

    def attack(files: dict[str, bytes]) -> None:
        manifest = json.loads(files["MANIFEST.json"])
        change(files, manifest)
        manifest["files"] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in files.items()
            if not name.startswith("MANIFEST")
        }
        files["MANIFEST.json"] = canonical.dumps(manifest)
        text = f"{manifest['format']}\n{manifest['origin']}\n{hashlib.sha256(files['MANIFEST.json']).hexdigest()}\n"
        signature = note.sign(text, log.key, log.private.sign)
        files["MANIFEST.note"] = str(note.Note(text, (signature,))).encode()

    return altered(bundle, attack)


def test_gaps_cover_all_that_is_not_shown(log: Signed) -> None:
    plan = log.plan(
        2, 290, selection=PERSON, runs=[Run(3, 5), Run(30, 31), Run(70, 80)], pruned=[Gap(6, 8, "pruned", "e")]
    )
    assert [(gap.start, gap.end, gap.reason) for gap in plan.gaps()] == [
        (0, 2, "outside"),
        (2, 3, "not_selected"),
        (5, 6, "not_selected"),
        (6, 8, "pruned"),
        (8, 30, "not_selected"),
        (31, 70, "not_selected"),
        (80, 290, "not_selected"),
        (290, 300, "outside"),
    ]
    assert joined(plan.numbers()) == list(plan.runs)
    assert kept(2, 290, [Gap(0, 3, "pruned"), Gap(50, 60, "pruned")]) == [Run(3, 50), Run(60, 290)]


def test_an_honest_selection_holds_and_says_what_it_does_not_show(check: Callable[..., str], log: Signed) -> None:
    bundle = log.written(selection(log))
    said = check(bundle)
    assert "selection  person u7" in said
    assert "events     46 (0 to 300 of 300); each is in the log, at its place" in said
    assert "does not show that no event was left out" in said
    assert not [name for name in files_of(bundle) if name.startswith("tile/")]
    assert "proofs/70.tlog-proof" in files_of(bundle)
    assert check(log.written(selection(log, runs=[Run(0, COUNT)]))).endswith("holds\n")
    assert check(log.written(selection(log, start=5, end=280, runs=[Run(6, 7), Run(270, 279)]))).endswith("holds\n")


def events(change: Callable[[list[bytes]], object]) -> Callable[[dict[str, bytes]], None]:
    def attack(files: dict[str, bytes]) -> None:
        lines = files["events.jsonl"].splitlines(keepends=True)
        change(lines)
        files["events.jsonl"] = b"".join(lines)

    return attack


def swap(lines: list[bytes]) -> None:
    lines[0], lines[1] = lines[1], lines[0]


def flip(lines: list[bytes]) -> None:
    lines[2] = lines[2].replace(b"key.created", b"key.revoked")


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        (events(flip), "event_changed"),
        (events(swap), "events_reordered"),
        (events(lambda lines: lines.pop(2)), "event_missing"),
        (events(lambda lines: lines.insert(2, event(9) + b"\n")), "event_inserted"),
        (events(lambda lines: lines.__setitem__(1, lines[0])), "event_duplicated"),
        (lambda files: files.pop("proofs/70.tlog-proof"), "file_missing"),
        (lambda files: files.update({"proofs/70.tlog-proof": files["proofs/4.tlog-proof"]}), "proof_invalid"),
        (lambda files: files.update({"gaps.jsonl": files["gaps.jsonl"].partition(b"\n")[2]}), "event_missing"),
    ],
)
def test_every_change_to_a_selection_is_named(
    check: Callable[..., str], log: Signed, attack: Callable[[dict[str, bytes]], None], error: str
) -> None:
    assert check(altered(log.written(selection(log)), attack)) == error


def test_a_filtered_export_that_is_passed_for_the_whole(check: Callable[..., str], log: Signed) -> None:
    """Even with the log's key."""
    bundle = log.written(selection(log))

    def claim(files: dict[str, bytes], manifest: dict[str, Any]) -> None:
        manifest["selection"] = {"kind": "range"}

    def claim_outside(files: dict[str, bytes], manifest: dict[str, Any]) -> None:
        claim(files, manifest)
        files["gaps.jsonl"] = files["gaps.jsonl"].replace(b"not_selected", b"outside")

    assert check(resigned(log, bundle, lambda files, manifest: None)).endswith("holds\n")  # the negative control
    assert check(resigned(log, bundle, claim)) == "filtered_export"
    assert check(resigned(log, bundle, claim_outside)) == "filtered_export"

    def claim_pruned(files: dict[str, bytes], manifest: dict[str, Any]) -> None:
        claim(files, manifest)
        files["gaps.jsonl"] = files["gaps.jsonl"].replace(b"not_selected", b"pruned")

    assert check(resigned(log, bundle, claim_pruned)) == "event_missing"  # nothing in the log tells of it


def pruned(log: Signed, start: int, end: int, *gaps: Gap, evidence: bool = True) -> bytes:
    plan = log.plan(start, end, pruned=gaps)
    proof = [inclusion(plan, 250, log.tree().node)]
    files = [("evidence/250.json", [log.events[250]]), ("evidence/250.tlog-proof", proof)] if evidence else []
    return log.written(plan, files)


def test_pruned_is_told_from_deleted(check: Callable[..., str], log: Signed) -> None:
    ten, sixty = Gap(10, 40, "pruned", PRUNER), Gap(60, 64, "pruned", PRUNER)
    said = check(pruned(log, 0, 300, ten, sixty, evidence=False))  # event 250 is shown itself
    assert "pruned     34 more were removed by a policy, as the log itself says" in said
    assert check(pruned(log, 20, 100, ten, sixty)).endswith("holds\n")
    assert check(pruned(log, 20, 100, ten, sixty, evidence=False)) == "event_missing"
    assert check(pruned(log, 0, 300, Gap(10, 41, "pruned", PRUNER), evidence=False)) == "event_missing"
    assert check(pruned(log, 0, 300, Gap(10, 40, "pruned", "another"), evidence=False)) == "event_missing"
    forged = altered(
        pruned(log, 20, 100, ten), lambda files: files.update({"evidence/250.json": files["evidence/250.json"] + b" "})
    )
    assert check(forged) == "proof_invalid"


def test_an_earlier_checkpoint_is_proven_to_be_the_beginning(
    check: Callable[..., str], log: Signed, tmp_path: Path
) -> None:
    bundle = log.written(selection(log, previous=log.checkpoint(130)))
    assert check(bundle).endswith("holds\n")
    for size, said in ((130, "holds"), (120, "consistency_missing"), (300, "holds")):
        (tmp_path / "kept").write_text(str(log.checkpoint(size)), encoding="utf-8")
        assert check(bundle, "--previous", str(tmp_path / "kept")).strip().endswith(said)
    other = signed(tmp_path / "other", [event(1, reason="other"), *log.events[1:]], log.private)
    (tmp_path / "kept").write_text(str(other.checkpoint(130)), encoding="utf-8")
    assert check(bundle, "--previous", str(tmp_path / "kept")) == "history_rewritten"
    forged = resigned(
        log, bundle, lambda files, _: files.update({"checkpoint.previous": str(other.checkpoint(130)).encode()})
    )
    assert check(forged) == "history_rewritten"
