"""A witness: it vouches for a log that grows, and for no other."""

from __future__ import annotations

import base64
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kasbah.audit.log import merkle, note
from kasbah.audit.log.note import Key, Note
from kasbah.audit.witness import __main__ as command
from kasbah.audit.witness.cosigning import StateDamaged, Witness, request
from tests.audit.bundles import ORIGIN, Signed, event, signed


@pytest.fixture
def log(tmp_path: Path) -> Signed:
    return signed(tmp_path / "log", [event(number) for number in range(40)])


@pytest.fixture
def witness(tmp_path: Path, log: Signed) -> Witness:
    return Witness("witness.test/w", Ed25519PrivateKey.generate(), {ORIGIN: [log.key]}, tmp_path / "seen")


def asked(log: Signed, old: int, size: int) -> str:
    proof = merkle.consistency_proof(old, size, log.tree().node) if old else []
    return request(old, tuple(proof), str(log.checkpoint(size)))


def signed_by(log: Signed, text: str) -> str:
    """A note of the log's, whatever its text."""
    return str(Note(text, (note.sign(text, log.key, log.private.sign),)))


@pytest.mark.parametrize(
    "kept", [b"\xff", b"", b"junk", b"another/log\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"]
)
def test_a_damaged_memory_signs_nothing(witness: Witness, log: Signed, kept: bytes) -> None:
    assert witness.add_checkpoint(asked(log, 0, 3)).status == 200
    witness._path(ORIGIN).write_bytes(kept)
    for old in (0, 3):
        with pytest.raises(StateDamaged, match="put its copy back"):
            witness.add_checkpoint(asked(log, old, 9))
    assert witness._path(ORIGIN).read_bytes() == kept


def test_what_a_carried_file_says_is_printed_without_what_a_terminal_obeys(
    tmp_path: Path, log: Signed, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["key", "--name", "w", "--state", str(tmp_path / "state")]) == 0
    said = str(log.checkpoint(3)).replace("test/audit", "\u202e\x9b31m")
    (tmp_path / "request").write_text(request(0, (), said), encoding="utf-8")
    given = ["--name", "w", "--state", str(tmp_path / "state"), "--log", log.key.vkey(), str(tmp_path / "request")]
    capsys.readouterr()
    assert command.main(["sign", *given]) == 1
    shown = capsys.readouterr().err
    assert "does not watch" in shown
    assert all(letter.isprintable() for letter in shown.rstrip("\n"))
    assert command.main(["sign", *given[:-1], "\udcff"]) == 2
    assert "not UTF-8" in capsys.readouterr().err


def test_it_cosigns_what_grows_and_remembers(witness: Witness, log: Signed) -> None:
    for old, size in ((0, 3), (3, 3), (3, 17), (17, 40)):
        answer = witness.add_checkpoint(asked(log, old, size))
        assert answer.status == 200, answer.body
        note = Note.parse(str(log.checkpoint(size)) + answer.body)
        assert note.verified([log.key, witness.key])[witness.key] > 1_700_000_000
    behind = witness.add_checkpoint(asked(log, 3, 17))
    assert (behind.status, behind.body, behind.kind) == (409, "40\n", "text/x.tlog.size")


def test_another_history_is_refused_and_not_remembered(witness: Witness, log: Signed, tmp_path: Path) -> None:
    assert witness.add_checkpoint(asked(log, 0, 10)).status == 200
    rewritten = signed(tmp_path / "other", [event(0, reason="rewritten"), *log.events[1:]], log.private)
    assert witness.add_checkpoint(asked(rewritten, 10, 20)).status == 422
    same_size = request(10, (), str(rewritten.checkpoint(10)))
    assert witness.add_checkpoint(same_size).status == 422
    assert witness.add_checkpoint(asked(log, 10, 20)).status == 200  # the true one still goes on


def test_what_it_does_not_know_or_cannot_read(witness: Witness, log: Signed, tmp_path: Path) -> None:
    stranger = signed(tmp_path / "stranger", log.events)
    assert witness.add_checkpoint(asked(stranger, 0, 5)).status == 403
    elsewhere = str(log.checkpoint(5)).replace("test/audit", "other/audit")
    assert witness.add_checkpoint(request(0, (), elsewhere)).status == 404
    broken = str(log.checkpoint(5)).replace("\n5\n", "\n6\n")
    assert witness.add_checkpoint(request(0, (), broken)).status == 403
    assert witness.add_checkpoint(request(6, (), str(log.checkpoint(5)))).status == 400
    assert witness.add_checkpoint(request(0, (bytes(32),), str(log.checkpoint(5)))).status == 422
    for text in ("", "old 1", "old -1\n\nx", "old 0\n!\n\n" + str(log.checkpoint(5)), "old 0\n\nno note\n"):
        assert witness.add_checkpoint(text).status == 400


def test_by_hand_by_file(tmp_path: Path, log: Signed) -> None:
    program = [sys.executable, "-m", "kasbah.audit.witness"]
    names = ["--name", "witness.test/hand", "--state", str(tmp_path / "state")]
    made = subprocess.run([*program, "key", *names], capture_output=True, text=True, check=True)
    key = Key.parse(made.stdout)
    again = subprocess.run([*program, "key", *names], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (0, made.stdout)  # never replaced, and shown whenever it is asked for
    assert "has a key already" in again.stderr
    (tmp_path / "request").write_text(asked(log, 0, 7), encoding="utf-8")
    sign = [*program, "sign", *names, "--log", log.key.vkey(), str(tmp_path / "request")]
    done = subprocess.run(sign, capture_output=True, text=True, check=True)
    assert key in Note.parse(str(log.checkpoint(7)) + done.stdout).verified([key])
    again = subprocess.run(sign, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stderr) == (1, "7\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["key", "--name", "two words"], "no spaces"),
        (["sign", "--name", "w", "--log", "x+y", "-"], "not a verifier key"),
        (["sign", "--name", "w", "--log", "LOG", "-"], "make a key with the command `key`"),
        (["serve", "--name", "w", "--log", "LOG", "--bind", "nowhere"], "--bind takes HOST:PORT"),
        (["serve", "--name", "w", "--log", "LOG", "--bind", "127.0.0.1:" + "9" * 5_000], "--bind takes HOST:PORT"),
        (["serve", "--name", "w", "--log", "LOG", "--bind", "127.0.0.1:00000099999"], "--bind takes HOST:PORT"),
        (["sign", "--name", "w", "--log", "LOG", "absent"], "absent: No such file"),
    ],
)
def test_a_wrong_call_gets_a_sentence(
    given: list[str], said: str, tmp_path: Path, log: Signed, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    if "make a key" not in said:
        assert command.main(["key", "--name", "w", "--state", str(state)]) == 0
    given = [log.key.vkey() if one == "LOG" else one for one in given]
    assert command.main([*given, "--state", str(state)]) == 1
    assert said in capsys.readouterr().err


def test_a_key_file_without_a_key_is_named_and_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_bytes(b"\xff\xfe not a key")
    assert command.main(["key", "--name", "w", "--state", str(tmp_path)]) == 1
    assert "holds no key" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").read_bytes() == b"\xff\xfe not a key"


def test_over_http(witness: Witness, log: Signed, monkeypatch: pytest.MonkeyPatch) -> None:
    servers = []

    class Server(command.ThreadingHTTPServer):
        def serve_forever(self, poll_interval: float = 0.05) -> None:
            servers.append(self)
            ready.set()
            super().serve_forever(poll_interval)

    ready, b64root = threading.Event(), base64.b64encode(bytes(32)).decode()
    monkeypatch.setattr(command, "ThreadingHTTPServer", Server)
    thread = threading.Thread(target=command._serve, args=(witness, "127.0.0.1:0"))
    thread.start()
    assert ready.wait(10)
    address = f"http://127.0.0.1:{servers[0].server_port}"

    def post(path: str, body: bytes) -> tuple[int, str]:
        answer = httpx.post(address + path, content=body, timeout=10)
        return answer.status_code, answer.text

    try:
        status, line = post("/add-checkpoint", asked(log, 0, 9).encode())
        assert status == 200
        assert witness.key in Note.parse(str(log.checkpoint(9)) + line).verified([witness.key])
        assert post("/add-checkpoint", asked(log, 0, 9).encode()) == (409, "9\n")
        assert post("/elsewhere", b"x")[0] == 404
        assert post("/add-checkpoint", bytes(command.LARGEST + 1))[0] == 413
        assert post("/add-checkpoint", b"\xff")[0] == 400
        for size, root in (("9" * 5_000, b64root), ("9", "\u00e9"), ("\u0669", b64root)):
            said = signed_by(log, f"{ORIGIN}\n{size}\n{root}\n")
            assert post("/add-checkpoint", request(9, (), said).encode())[0] == 400
        foreign = request(9, (), str(log.checkpoint(12))).replace("old 9\n", "old 9\n\u00e9\n")
        assert post("/add-checkpoint", foreign.encode())[0] == 400
        witness._path(ORIGIN).write_bytes(b"\xff")  # its own memory is damaged: no signature, and a sentence
        status, said = post("/add-checkpoint", asked(log, 9, 12).encode())
        assert (status, "its keeper must look" in said) == (500, True)
    finally:
        servers[0].shutdown()
        thread.join(10)
        servers[0].server_close()
