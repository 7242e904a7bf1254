"""A receipt accuses only where every event of its time is there: a whole log that ends after its deadline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract.signing import Purpose, Signer
from kasbah.audit.export.plan import Run
from kasbah.audit.export.verifier import program, promises
from kasbah.audit.export.verifier.failure import Failed
from kasbah.audit.log import merkle
from tests.attacks.test_selections import resigned
from tests.audit.bundles import ORIGIN, Signed, event, signed

COUNT = 300  # events, one a second from midnight on
Judge = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return signed(tmp_path_factory.mktemp("log"), [event(number) for number in range(COUNT)])


@pytest.fixture
def judge(tmp_path: Path, log: Signed, capsys: pytest.CaptureFixture[str]) -> Judge:
    """Exit status, and all that is said."""

    def run(data: bytes, *receipts: str) -> tuple[int, str]:
        (tmp_path / "export.zip").write_bytes(data)
        given = []
        for at, receipt in enumerate(receipts):
            (tmp_path / f"receipt{at}").write_text(receipt, encoding="utf-8")
            given += ["--receipt", str(tmp_path / f"receipt{at}")]
        status = program.main([str(tmp_path / "export.zip"), "--key", log.key.vkey(), *given])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


def receipt(log: Signed, data: bytes, deadline: str = "") -> str:
    """What the platform gives for an event of these bytes, a minute before the deadline."""
    said = json.loads(data)
    minute, second = int(said["time"][14:16]) + 1, said["time"][16:]
    promised = deadline or f"2026-11-01T00:{minute:02}{second}"
    fields = {"event": said["id"], "leaf": merkle.leaf_hash(data).hex(), "deadline": promised, "origin": ORIGIN}
    return Signer(log.private).sign(Purpose.AUDIT, fields)


NEVER = event(7, reason="never")


def test_a_promise_that_was_kept_is_named_with_its_place(judge: Judge, log: Signed) -> None:
    status, said = judge(log.bundle(), receipt(log, log.events[9]), receipt(log, log.events[200]))
    assert status == 0
    assert f"{json.loads(log.events[9])['id']}: it is here, event 9 of the log" in said
    assert "it is here, event 200 of the log" in said


def test_a_broken_promise_is_an_accusation(judge: Judge, log: Signed) -> None:
    status, said = judge(log.bundle(), receipt(log, NEVER))
    assert (status, said.partition(":")[0]) == (1, "receipt_without_leaf")
    assert "until 2026-11-01 00:01:07 UTC" in said
    assert "goes on until 2026-11-01 00:04:59 UTC" in said
    # Of several the accusation is told first, whatever else cannot be shown.
    late = receipt(log, NEVER, "2026-11-02T00:00:00.000000Z")
    assert judge(log.bundle(), late, receipt(log, NEVER))[1].startswith("receipt_without_leaf")


def older(log: Signed, tmp_path: Path) -> bytes:
    """An export that was made when the log had 100 events, or under the checkpoint that a witness last signed."""
    return signed(tmp_path / "older", log.events[:100], log.private).bundle()


def test_an_export_that_is_older_than_the_promise_accuses_nobody(judge: Judge, log: Signed, tmp_path: Path) -> None:
    for at in (100, 250):  # promised before the export's log ends, and after it
        status, said = judge(older(log, tmp_path / str(at)), receipt(log, log.events[at]))
        assert (status, said.partition(":")[0]) == (3, "receipt_not_in_export")
        assert "not in this export" in said
        assert "ask for" in said
    assert judge(older(log, tmp_path), receipt(log, NEVER))[0] == 1, "an older event that it must have"


def test_another_period_finds_it_in_the_tree(judge: Judge, log: Signed) -> None:
    for start, end in ((100, 200), (250, 300), (150, 150)):
        status, said = judge(log.bundle(start, end), receipt(log, log.events[20]))
        assert status == 0, said
        assert "it is in the log, event 20, but not in this export: ask for the period" in said
    status, said = judge(log.bundle(5, 20), receipt(log, NEVER))
    assert (status, said.partition(":")[0]) == (3, "receipt_not_in_export"), "no event says how far the log goes"
    assert judge(log.bundle(150, 150), receipt(log, NEVER))[0] == 3
    assert judge(log.bundle(100, 200), receipt(log, NEVER))[0] == 1, "all leaves are there, and later events"


def test_the_dossier_of_another_request_accuses_nobody(judge: Judge, log: Signed) -> None:
    plan = log.plan(selection={"kind": "request", "by": "req_1"}, runs=[Run(3, 6)])
    assert judge(log.written(plan), receipt(log, log.events[4]))[0] == 0
    for data in (log.events[9], NEVER):
        status, said = judge(log.written(plan), receipt(log, data))
        assert (status, said.partition(":")[0]) == (3, "receipt_not_in_export")
        assert f"/{json.loads(data)['id']}/proof/" in said


def test_an_event_that_is_shown_as_evidence_is_here(judge: Judge, log: Signed) -> None:
    from kasbah.audit.export.bundle import inclusion

    plan = log.plan(selection={"kind": "request", "by": "req_1"}, runs=[Run(3, 6)])
    files = {"evidence/9.json": log.events[9], "evidence/9.tlog-proof": inclusion(plan, 9, log.tree().node)}
    status, said = judge(
        log.written(plan, [(name, [data]) for name, data in files.items()]), receipt(log, log.events[9])
    )
    assert (status, "it is here, event 9 of the log" in said) == (0, True)


def test_tiles_that_do_not_give_the_root_find_nothing(judge: Judge, log: Signed) -> None:
    """Whoever has the key writes a leaf into a tile that no event has."""

    def swap(files: dict[str, bytes], _manifest: dict[str, Any]) -> None:
        leaf = merkle.leaf_hash(NEVER)
        files["tile/0/000"] = leaf + files["tile/0/000"][32:]

    status, said = judge(resigned(log, log.bundle(100, 200), swap), receipt(log, NEVER))
    assert (status, said.partition(":")[0]) == (1, "root_mismatch")


@pytest.mark.parametrize("deadline", ["d", "9999", "2026-13-01T00:00:00.000000Z", "2026-11-01T00:00:00"])
def test_a_promise_until_no_time_judges_nothing(judge: Judge, log: Signed, deadline: str) -> None:
    status, said = judge(log.bundle(), receipt(log, NEVER, deadline))
    assert (status, said.partition(":")[0]) == (1, "receipt_malformed")


def test_without_the_guard_an_honest_operator_would_be_accused(
    judge: Judge, log: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: as it was, what is not in the export was called a lie."""
    monkeypatch.setattr(promises, "has_tiles", lambda _bundle: False)
    accuse = Failed("receipt_without_leaf", "it was promised and is not in the log")
    monkeypatch.setattr(promises, "explain_missing", lambda *_given: accuse)
    for data in (older(log, tmp_path), log.bundle(150, 200)):
        assert judge(data, receipt(log, log.events[120]))[1].startswith("receipt_without_leaf")
