"""verify.py takes what the API and the dossier give, and says what it compared, what it did not, and when."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract.messages import sha256_hex
from inference_worker.contract.signing import Purpose, Signer, b64
from kasbah.audit.export import bundle as bundling
from kasbah.audit.export.bundle import inclusion
from kasbah.audit.export.plan import Run
from kasbah.audit.export.verifier import program
from kasbah.audit.log import merkle
from tests.attacks.test_selections import resigned
from tests.audit.bundles import ORIGIN, Signed, event, signed

Said = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without views, which take a second to set."""
    monkeypatch.setattr(bundling, "VIEWS", ())


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return signed(tmp_path_factory.mktemp("log"), [event(number) for number in range(40)])


@pytest.fixture
def said(tmp_path: Path, log: Signed, capsys: pytest.CaptureFixture[str]) -> Said:
    """Exit status, and all that is said. Bytes become files."""

    def run(data: bytes, *arguments: str | bytes, key: str | bytes | None = None) -> tuple[int, str]:
        given: list[str] = []
        for at, one in enumerate((data, "--key", log.key.vkey() if key is None else key, *arguments)):
            if isinstance(one, bytes):
                (tmp_path / str(at)).write_bytes(one)
            given.append(str(tmp_path / str(at)) if isinstance(one, bytes) else one)
        status = program.main(given)
        found = capsys.readouterr()
        return status, found.out + found.err

    return run


def head(log: Signed, size: int | None = None, **fields: Any) -> bytes:
    """The answer of `audit-log/`."""
    shown = {"origin": ORIGIN, "key": log.key.vkey(), "checkpoint": str(log.checkpoint(size)), "successions": []}
    return json.dumps(shown | fields).encode()


def test_a_key_is_taken_as_it_came(said: Said, log: Signed) -> None:
    for key in (log.key.vkey(), log.key.vkey().encode() + b"\n", b"\xef\xbb\xbf" + log.key.vkey().encode(), head(log)):
        assert said(log.bundle(), key=key)[0] == 0, key
    for key in (b"", b"{", b"{}", b"\xff", b"x" * 2_000_000, b"[" * 10_000, b'{"key":7}'):
        status, text = said(log.bundle(), key=key)
        assert (status, text.count("\n")) == (1, 1), text
    assert said(log.bundle(), key="/")[0] == 2


def test_an_earlier_checkpoint_is_taken_as_it_came(said: Said, log: Signed, tmp_path: Path) -> None:
    earlier = signed(tmp_path / "earlier", log.events[:30], log.private)
    for kept in (str(earlier.checkpoint()).encode(), head(log, 30), earlier.bundle()):
        status, text = said(log.bundle(), "--previous", kept)
        assert status == 0, text
        assert (
            "kept       the log begins with the 30 events (until 2026-11-01 00:00:29 UTC) of the checkpoint that"
            in text
        )
        assert "10 came since" in text
    for wrong in (
        b"",
        b"{}",
        b"\xff\xff",
        b"PK\3\4" + bytes(40),
        b"{" * 50_000,
        str(earlier.checkpoint()).encode()[:-9],
    ):
        assert said(log.bundle(), "--previous", wrong)[0] == 1, wrong
    assert "kept       NOT COMPARED" in said(log.bundle())[1]


def test_a_user_receipt_is_taken_as_it_came(said: Said, log: Signed) -> None:
    leaf = merkle.leaf_hash(log.events[9]).hex()
    promised = {"event": "e", "leaf": leaf, "deadline": "2026-11-01T00:01:09.000000Z", "origin": ORIGIN}
    token = Signer(log.private).sign(Purpose.AUDIT, promised)
    headers = f"HTTP/1.1 200 OK\r\ncontent-type: x\r\nKasbah-Audit-Receipt: {token}\r\nx-request-id: r\r\n\r\n"
    for given in (token, token.encode() + b"\n", headers.encode()):
        assert "it is here, event 9 of the log" in said(log.bundle(), "--receipt", given)[1]
    status, text = said(log.bundle(), "--receipt", json.dumps({"receipt": token}).encode())
    assert (status, "a worker's receipt is checked with verify_receipt.py" in text) == (1, True)
    for wrong in (
        b"",
        b"..",
        b"\xff",
        b"a.b.c",
        b"PK\3\4",
        f"{token}=".encode(),
        token[:-4].encode(),
        "é.é.é".encode(),
    ):
        assert said(log.bundle(), "--receipt", wrong)[0] == 1, wrong
    assert said(log.bundle(), "--receipt", "absent")[0] == 2


def test_a_proof_and_its_event_are_taken_as_they_came(said: Said, log: Signed) -> None:
    proof = inclusion(log.plan(), 9, log.tree().node)
    answer = json.dumps({"event": "e", "index": 9, "proof": proof.decode()}).encode()
    shown = json.dumps({"id": "e", "event": json.loads(log.events[9]), "leaf_hash": "x"}, indent=1).encode()
    for one in (proof, answer):
        for data in (log.events[9], log.events[9] + b"\n", shown):
            status, text = said(one, "--event", data, "--succession", head(log))
            assert status == 0, text
            assert "key.created of 2026-11-01 00:00:09 UTC" in text
    assert said(answer, "--event", log.events[8])[1].startswith("proof_invalid")
    for wrong in (
        b"",
        b"{}",
        b"index 9",
        b"\xff",
        b'{"proof":"c2sp.org/tlog-proof@v1"}',
        b"c2sp.org/tlog-proof@v1\nextra x",
    ):
        assert said(wrong, "--event", log.events[9])[0] == 1, wrong


def test_times_and_what_was_not_compared_are_said(said: Said, log: Signed) -> None:
    text = said(log.bundle(10, 20))[1]
    assert "the first of 2026-11-01 00:00:10 UTC, the last of 2026-11-01 00:00:19 UTC" in text
    root = log.checkpoint().text.split("\n")[2]
    assert f"checkpoint 40 events, root {base64.b64decode(root).hex()}" in text
    assert "views      none are there" in text
    assert "content    NOT COMPARED" in text
    assert "UNWITNESSED" in text
    plan = log.plan(previous=log.checkpoint(30))
    assert "earlier    the log begins with the 30 events (until 2026-11-01 00:00:29 UTC)" in said(log.written(plan))[1]


def test_a_number_of_events_that_is_not_theirs_is_named(said: Said, log: Signed) -> None:
    for number in (0, 39, 41):

        def claim(_files: dict[str, bytes], manifest: dict[str, Any]) -> None:
            manifest["events"] = number  # noqa: B023

        assert said(resigned(log, log.bundle(), claim))[1].startswith("manifest_changed"), number


def receipt_document(log: Signed, **fields: Any) -> dict[str, Any]:
    """As a dossier has it: the worker's receipt, and what the platform found."""
    worker, control = Signer(log.private), Signer.from_raw(bytes(range(32)))
    keys = [signer.public.public_bytes_raw() for signer in (worker, control)]
    names = ("receipt_signature", "ticket_signature")
    made = {
        "receipt": worker.sign(Purpose.RECEIPT, {"job": "j"}),
        "ticket": control.sign(Purpose.TICKET, {"job": "j"}),
        "checks": [{"name": name, "holds": True, "reason": ""} for name in names],
        "worker": {"public_key": b64(keys[0])},
        "control_plane_keys": {sha256_hex(keys[1])[:16]: b64(keys[1])},
    }
    return made | fields


def test_a_dossier_shows_a_receipt_that_fails_and_believes_no_other(said: Said, log: Signed) -> None:
    plan = log.plan(selection={"kind": "request", "by": "req_1"}, runs=[Run(3, 6)])

    def dossier(**fields: Any) -> tuple[int, str]:
        data = json.dumps(receipt_document(log, **fields)).encode()
        return said(log.written(plan, [("dossier/receipt-req_1.json", [data])]))

    status, text = dossier()
    assert (status, "1 with the keys that they bring" in text, "CHECK FAILED" in text) == (0, True, False)
    assert "Whose keys those are was NOT CHECKED" in text
    broken = receipt_document(log)["receipt"][:-8] + "AAAAAAAA"[:6] + "AA"
    assert dossier(receipt=broken)[1].startswith("dossier_differs"), "it says that it holds"
    told = [{"name": "receipt_signature", "holds": False, "reason": "the signature does not hold"}]
    status, text = dossier(receipt=broken, checks=told)
    assert status == 0
    assert "dossier/receipt-req_1.json: CHECK FAILED receipt_signature: the signature does not hold" in text
    for fields in ({"receipt": 7}, {"worker": {}}, {"checks": 7}, {"control_plane_keys": []}, {"ticket": None}):
        assert dossier(**fields)[1].startswith("document_malformed"), fields


def test_an_opening_without_bytes_is_not_said_to_be_compared(said: Said, log: Signed, tmp_path: Path) -> None:
    made = {part: hmac.new(b"k" * 32, part.encode(), hashlib.sha256).hexdigest() for part in ("prompt", "answer")}
    spoken = signed(tmp_path / "spoken", [event(0, request_id="req_1", commitments=made)], log.private)
    plan = spoken.plan(selection={"kind": "request", "by": "req_1"}, opened=["answer", "prompt"])

    def opened(part: str, data: bytes | None) -> tuple[str, list[bytes]]:
        encode = base64.b64encode
        shown = {"request_id": "req_1", "part": part, "opening": encode(b"k" * 32).decode()}
        shown |= {"bytes": None if data is None else encode(data).decode()}  # type: ignore[dict-item]
        return f"content/req_1.{part}.json", [json.dumps(shown).encode()]

    text = said(spoken.written(plan, [opened("prompt", b"prompt"), opened("answer", None)]))[1]
    assert "content    1 parts opened, each as it was committed to" in text
    assert "1 parts NOT COMPARED: their openings alone were kept" in text
    text = said(spoken.written(plan, [opened("prompt", None), opened("answer", None)]))[1]
    assert "content    0 parts opened: NOTHING WAS COMPARED" in text
    assert "2 parts NOT COMPARED" in text
    assert "as it was committed to" not in text
