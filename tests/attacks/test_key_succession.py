"""Attacks on the change of a log's key: each makes verify.py fail by its name. Honest changes hold."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kasbah.audit.export.plan import Run
from kasbah.audit.export.verifier import program
from kasbah.audit.log import merkle, note
from kasbah.audit.log.note import ED25519, Key, Note
from kasbah.audit.log.rotation import statement
from tests.audit.bundles import ORIGIN, Signed, altered, event, signed

OLD, NEW, OTHER = (Ed25519PrivateKey.generate() for _ in range(3))
TURN = 30  # events that the old key signed for


def key(private: Ed25519PrivateKey) -> Key:
    return Key(ORIGIN, ED25519, private.public_key().public_bytes_raw())


@pytest.fixture
def log(tmp_path: Path) -> Signed:
    """Signed by the new key."""
    return signed(tmp_path / "log", [event(number) for number in range(50)], NEW)


def succession(
    log: Signed, old: Ed25519PrivateKey, new: Ed25519PrivateKey, *by: Ed25519PrivateKey, size: int = TURN
) -> str:
    """The note; by default both sign it."""
    text = statement(note.Checkpoint.parse(log.checkpoint(size).text), key(old), key(new))
    return str(Note(text, tuple(note.sign(text, key(one), one.sign) for one in by or (old, new))))


def check(
    tmp_path: Path, data: bytes, capsys: pytest.CaptureFixture[str], trusted: Ed25519PrivateKey, *more: str
) -> str:
    (tmp_path / "export.zip").write_bytes(data)
    program.main([str(tmp_path / "export.zip"), "--key", key(trusted).vkey(), *more])
    return capsys.readouterr().err.partition(":")[0]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The name of what fails, "" when all holds."""

    def check(data: bytes, trusted: Ed25519PrivateKey = OLD, *more: str) -> str:
        (tmp_path / "export.zip").write_bytes(data)
        program.main([str(tmp_path / "export.zip"), "--key", key(trusted).vkey(), *more])
        return capsys.readouterr().err.partition(":")[0]

    return check


def test_an_honest_change_holds_with_either_key(log: Signed, run: Callable[..., str]) -> None:
    data = log.bundle(successions=[succession(log, OLD, NEW)])
    assert run(data) == ""
    assert run(data, NEW) == ""
    assert run(log.bundle(), NEW) == ""


def test_a_key_that_was_merely_replaced(log: Signed, run: Callable[..., str]) -> None:
    assert run(log.bundle()) == "unknown_key"
    assert run(log.bundle(successions=[succession(log, OTHER, NEW)])) == "unknown_key"


def test_a_chain_that_is_broken(log: Signed, run: Callable[..., str]) -> None:
    good = succession(log, OLD, NEW)
    broken = {
        "not by the old key": [succession(log, OLD, NEW, NEW)],
        "not by the new key": [succession(log, OLD, NEW, OLD)],
        "by another": [succession(log, OLD, NEW, OTHER, NEW)],
        "altered": [good.replace(f"\n{TURN}\n", "\n31\n")],
        "of another log": [good.replace(ORIGIN, ORIGIN + "x")],
        "with a gap": [succession(log, OLD, OTHER), good],
        "backwards": [succession(log, OTHER, OLD, size=40), good],
        "garbage": ["nothing\nof\n1\nsense\n"],
    }
    assert {what: run(log.bundle(successions=notes)) for what, notes in broken.items()} == dict.fromkeys(
        broken, "key_succession_invalid"
    )


def test_a_key_is_used_in_its_own_time_alone(log: Signed, run: Callable[..., str], tmp_path: Path) -> None:
    late = [succession(log, OLD, NEW, size=50)]  # the new key has signed 50 events, which it took over after
    assert run(log.bundle(successions=late)) == "key_succession_invalid"
    by_old = signed(tmp_path / "by_old", log.events, OLD)  # the old key goes on signing
    assert run(by_old.bundle(), OLD) == ""  # the negative control: who is not shown the change cannot know of it
    assert run(by_old.bundle(successions=[succession(log, OLD, NEW)])) == "key_succession_invalid"


def test_a_kept_checkpoint_is_checked_by_the_key_of_its_time(
    log: Signed, run: Callable[..., str], tmp_path: Path
) -> None:
    data = log.bundle(successions=[succession(log, OLD, NEW)])
    invalid = "key_succession_invalid"
    for private, size, error in ((OLD, 20, ""), (NEW, 40, ""), (OLD, 40, invalid), (NEW, 20, invalid)):
        by = Signed(log.folder, log.events, private)
        (tmp_path / "kept").write_text(str(by.checkpoint(size)))
        assert run(data, OLD, "--previous", str(tmp_path / "kept")) == error


def test_the_new_key_cannot_rewrite_what_the_old_one_signed(
    log: Signed, run: Callable[..., str], tmp_path: Path
) -> None:
    forged = signed(tmp_path / "forged", [event(0, reason="rewritten"), *log.events[1:]], NEW)
    assert run(forged.bundle(successions=[succession(log, OLD, NEW)])) == "history_rewritten"
    assert run(forged.bundle(), NEW) == ""  # the negative control


def test_a_selection_proves_it_without_the_tree(log: Signed, run: Callable[..., str], tmp_path: Path) -> None:
    few = {"selection": {"kind": "person", "by": "u1"}, "runs": [Run(2, 5), Run(40, 41)]}
    change = [succession(log, OLD, NEW)]
    assert run(log.written(log.plan(**few), successions=change)) == ""
    forged = signed(tmp_path / "forged", [event(0, reason="rewritten"), *log.events[1:]], NEW)
    assert run(forged.written(forged.plan(**few), successions=change)) == "history_rewritten"
    assert run(forged.written(forged.plan(**few)), NEW) == ""  # the negative control


def test_the_manifest_is_by_the_newest_key(log: Signed, run: Callable[..., str], tmp_path: Path) -> None:
    old = signed(tmp_path / "old", log.events[:TURN], OLD)
    change = succession(log, OLD, NEW)
    assert run(old.bundle(successions=[change], manifest_by=NEW)) == ""
    assert run(old.bundle(successions=[change])) == "key_succession_invalid"
    stripped = altered(log.bundle(successions=[change]), lambda files: files.pop("keys/0000.note"))
    assert run(stripped, NEW) == "file_missing"
    assert run(stripped) == "unknown_key"


def test_a_proof_of_one_event_after_the_change(log: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hashes = merkle.inclusion_proof(9, 50, log.tree().node)
    head = "\n".join(["c2sp.org/tlog-proof@v1", "index 9", *note.lines_of(hashes)])
    (tmp_path / "proof").write_text(f"{head}\n\n{log.checkpoint()}")
    (tmp_path / "event").write_bytes(log.events[9])
    (tmp_path / "change").write_text(succession(log, OLD, NEW))
    arguments = [str(tmp_path / "proof"), "--event", str(tmp_path / "event"), "--key", key(OLD).vkey()]
    assert program.main(arguments) == 1
    assert capsys.readouterr().err.startswith("unknown_key")
    assert program.main([*arguments, "--succession", str(tmp_path / "change")]) == 0
