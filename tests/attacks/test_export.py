"""The known attacks on an exported log: each makes verify.py fail with its own name. Honest logs hold."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_worker.contract import canonical
from inference_worker.contract.signing import Purpose, Signer
from kasbah.audit.export import bundle as bundling
from kasbah.audit.export.verifier import archive, ed25519, events, joined, program, tree
from kasbah.audit.export.verifier.log import tile_name
from kasbah.audit.log import merkle, note
from kasbah.audit.log.note import COSIGNATURE, Key, Note
from kasbah.audit.log.tiles import TileFolder, name
from tests.audit.bundles import ORIGIN, Signed, altered, event, signed

COUNT = 600


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return signed(tmp_path_factory.mktemp("log"), [event(number) for number in range(COUNT)])


@pytest.fixture(scope="module")
def bundle(log: Signed) -> bytes:
    return log.bundle()


@pytest.fixture
def check(tmp_path: Path, log: Signed, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The name of what fails, "" when all holds. Bytes among the arguments become files."""

    def run(data: bytes, *arguments: str | bytes, key: str = "") -> str:
        (tmp_path / "export.zip").write_bytes(data)
        given = []
        for at, argument in enumerate(arguments):
            if isinstance(argument, bytes):
                (tmp_path / str(at)).write_bytes(argument)
            given.append(str(tmp_path / str(at)) if isinstance(argument, bytes) else argument)
        status = program.main([str(tmp_path / "export.zip"), "--key", key or log.key.vkey(), *given])
        said = capsys.readouterr()
        assert (status == 0) == said.out.endswith("holds\n"), said
        return said.err.partition(":")[0]

    return run


def test_an_honest_export_holds(check: Callable[..., str], log: Signed, bundle: bytes) -> None:
    assert check(bundle) == ""
    assert check(log.bundle(100, 437)) == ""
    assert check(log.bundle(5, 5)) == ""
    assert check(bundle, "--previous", str(log.checkpoint(300)).encode()) == ""
    assert check(bundle, "--previous", str(log.checkpoint()).encode()) == ""
    assert log.bundle() == bundle  # the same range gives the same bytes


def test_it_says_what_it_found_whatever_the_terminal_writes(tmp_path: Path) -> None:
    """A name in another script, on a machine whose output is ASCII alone; the control is Python's own way."""
    log = signed(tmp_path / "log", [event(0, type="\u062a\u0633\u062a.\u65e5\u672c")])
    (tmp_path / "export.zip").write_bytes(log.bundle())
    (tmp_path / "verify.py").write_text(joined.program(), encoding="utf-8")
    command = [sys.executable, str(tmp_path / "verify.py"), str(tmp_path / "export.zip"), "--key", log.key.vkey()]
    environment = {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\\u062a\\u0633\\u062a.\\u65e5\\u672c" in done.stdout
    assert done.stdout.endswith("holds\n")
    control = [sys.executable, "-c", "print('\u062a')"]
    assert subprocess.run(control, capture_output=True, check=False, env=environment).returncode == 1


@pytest.mark.parametrize("number", ["-1", "9" * 5_000, "\u0661", "1_0", "x"])
def test_a_number_of_witnesses_is_a_small_one(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        program.main(["export.zip", "--key", "k", f"--witnesses={number}"])
    assert ended.value.code == 2
    assert len(capsys.readouterr().err) < 2_000


def test_it_runs_with_the_standard_library_alone_out_of_the_export(tmp_path: Path, log: Signed, bundle: bytes) -> None:
    (tmp_path / "export.zip").write_bytes(bundle)
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        (tmp_path / "verify.py").write_bytes(archive.read("verify.py"))
    command = [sys.executable, "-I", "-S", str(tmp_path / "verify.py"), str(tmp_path / "export.zip")]
    done = subprocess.run([*command, "--key", log.key.vkey()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"events     {COUNT}" in done.stdout
    assert "UNWITNESSED" in done.stdout
    assert subprocess.run([*command[:4], "--help"], capture_output=True, check=False).returncode == 0
    assert subprocess.run(command, capture_output=True, check=False).returncode == 2  # the key is not optional


def test_it_is_the_parts_in_one_file(bundle: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle)) as archived:
        text = archived.read("verify.py").decode()
    done = subprocess.run(
        [sys.executable, "-m", joined.PACKAGE],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "platform"},
    )
    assert done.stdout == text
    assert "kasbah.audit.export.verifier" not in text
    monkeypatch.setattr(joined, "PARTS", ("failure", "failure", "program"))
    joined.program.cache_clear()
    with pytest.raises(ValueError, match="defined in two parts"):
        joined.program()
    joined.program.cache_clear()


def lines(change: Callable[[list[bytes]], object]) -> Callable[[dict[str, bytes]], None]:
    """An attack on the events."""

    def attack(files: dict[str, bytes]) -> None:
        events = files["events.jsonl"].splitlines(keepends=True)
        change(events)
        files["events.jsonl"] = b"".join(events)

    return attack


def flip(events: list[bytes]) -> None:
    events[7] = events[7].replace(b"key.created", b"key.revoked")


def swap(events: list[bytes]) -> None:
    events[7], events[8] = events[8], events[7]


def drop_duplicate_key(events: list[bytes]) -> None:
    events[7] = events[7].replace(b'{"actor"', b'{"version":1,"actor"', 1)


def garble(events: list[bytes]) -> None:
    events[7] = bytes([events[7][0] ^ 1]) + events[7][1:]


def replace(path: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    """An attack on one file."""

    def attack(files: dict[str, bytes]) -> None:
        assert old in files[path]
        files[path] = files[path].replace(old, new, 1)

    return attack


def append(path: str, more: bytes) -> Callable[[dict[str, bytes]], None]:
    """An attack that adds to a file, or adds one."""

    def attack(files: dict[str, bytes]) -> None:
        files[path] = files.get(path, b"") + more

    return attack


@pytest.mark.parametrize(
    ("attack", "error"),
    [
        (lines(flip), "event_changed"),
        (lines(garble), "event_changed"),
        (lines(drop_duplicate_key), "event_changed"),
        (lines(lambda events: events.pop(7)), "event_missing"),
        (lines(lambda events: events.pop(0)), "event_missing"),
        (lines(lambda events: events.__delitem__(slice(500, None))), "tail_cut"),
        (lines(lambda events: events.insert(7, event(7, reason="backdated") + b"\n")), "event_inserted"),
        (lines(lambda events: events.insert(7, events[7])), "event_duplicated"),
        (lines(swap), "events_reordered"),
        (lambda files: files.pop("views/events.csv"), "file_missing"),
        (replace("views/events.csv", b"success", b"failure"), "view_differs"),
        (append("views/events.csv", b"more\r\n"), "view_differs"),
        (replace("views/ocsf.jsonl", b'"status_id":1', b'"status_id":2'), "view_differs"),
        (replace("views/events.parquet", b"success", b"failure"), "view_differs"),
        (replace("report/report.json", b'"events":600', b'"events":599'), "view_differs"),
        (replace("MANIFEST.json", b"600", b"599"), "manifest_changed"),
        (append("VERIFY.md", b"All is well."), "file_changed"),
        (append("extra.txt", b"x"), "file_unknown"),
        (replace("checkpoint", b"\n600\n", b"\n601\n"), "signature_invalid"),
        (append("gaps.jsonl", b'{"end":1,"hashes":["AAAA"],"reason":"outside","start":0}\n'), "filtered_export"),
        (append("gaps.jsonl", b'{"end":1,"hashes":["AAAA"],"reason":"pruned","start":0}\n'), "event_inserted"),
    ],
)
def test_without_the_key_every_change_is_named(
    check: Callable[..., str], bundle: bytes, attack: Callable[[dict[str, bytes]], None], error: str
) -> None:
    assert check(altered(bundle, attack)) == error


def test_without_its_views_an_export_is_said_to_be_so(
    check: Callable[..., str], bundle: bytes, log: Signed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A view that lies under the log's own signature: only deriving it again shows that."""
    lying = resigned(bundle, log, "report/report.json", lambda data: data.replace(b'"events":600', b'"events":599', 1))
    assert check(lying) == "view_differs"
    assert check(lying, "--log-only") == ""
    arguments = [str(tmp_path / "export.zip"), "--key", log.key.vkey(), "--log-only"]
    assert program.main(arguments) == 0
    assert "NOT CHECKED" in capsys.readouterr().out


def resigned(bundle: bytes, log: Signed, path: str, change: Callable[[bytes], bytes]) -> bytes:
    """The export with one file changed by the operator, who signs its manifest again."""

    def attach(files: dict[str, bytes]) -> None:
        files[path] = change(files[path])
        manifest = json.loads(files["MANIFEST.json"])
        manifest["files"][path]["sha256"] = hashlib.sha256(files[path]).hexdigest()
        files["MANIFEST.json"] = canonical.dumps(manifest)
        text = f"{archive.FORMAT}\n{ORIGIN}\n{hashlib.sha256(files['MANIFEST.json']).hexdigest()}\n"
        files["MANIFEST.note"] = str(Note(text, (note.sign(text, log.key, log.private.sign),))).encode()

    return altered(bundle, attach)


def test_several_processes_find_what_one_finds(
    check: Callable[..., str], bundle: bytes, log: Signed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MANY", 100)
    monkeypatch.setattr(events, "BLOCK", 10_000)
    assert check(bundle) == ""
    assert check(altered(bundle, lines(flip))) == "event_changed"
    assert check(altered(bundle, replace("views/events.csv", b"success", b"failure"))) == "view_differs"
    late = signed(tmp_path / "late", [*log.events[:400], event(400, time="2025-01-01T00:00:00.000000Z")], log.private)
    assert check(late.bundle()) == "clock_went_back"


def test_tiles_recomputed_without_the_key(
    check: Callable[..., str], log: Signed, bundle: bytes, tmp_path: Path
) -> None:
    rewritten = [*log.events[:7], event(7, reason="rewritten"), *log.events[8:]]
    forged = signed(tmp_path / "forged", rewritten).bundle()

    def attack(files: dict[str, bytes]) -> None:
        with zipfile.ZipFile(io.BytesIO(forged)) as archive:
            for path in files:
                if path.startswith(("tile/", "events", "views")):
                    files[path] = archive.read(path)

    assert check(altered(bundle, attack)) == "root_mismatch"


def test_a_rewrite_with_the_stolen_key_is_caught_by_what_was_kept(
    check: Callable[..., str], log: Signed, tmp_path: Path
) -> None:
    rewritten = [*log.events[:7], event(7, reason="rewritten"), *log.events[8:]]
    forged = signed(tmp_path / "forged", rewritten, log.private).bundle()
    assert check(forged) == ""  # the negative control: the export alone cannot tell
    assert check(forged, "--previous", str(log.checkpoint(300)).encode()) == "history_rewritten"
    assert check(forged, "--previous", str(log.checkpoint()).encode()) == "split_view"
    older = signed(tmp_path / "older", log.events[:200], log.private).bundle()
    assert check(older, "--previous", str(log.checkpoint(300)).encode()) == "history_rewritten"


def cosigned(log: Signed, bundle: bytes, *witnesses: tuple[Key, Ed25519PrivateKey]) -> bytes:
    """The export with the witnesses' lines on its checkpoint, and a manifest that names it."""
    made = log.checkpoint()
    more = tuple(note.sign(made.text, key, private.sign, time=1_700_000_000) for key, private in witnesses)

    def attach(files: dict[str, bytes]) -> None:
        files["checkpoint"] = str(Note(made.text, made.signatures + more)).encode()
        manifest = json.loads(files["MANIFEST.json"])
        manifest["files"]["checkpoint"]["sha256"] = hashlib.sha256(files["checkpoint"]).hexdigest()
        del files["report/report.json"], manifest["files"]["report/report.json"]  # it names who signed
        files["MANIFEST.json"] = canonical.dumps(manifest)
        text = f"{archive.FORMAT}\n{ORIGIN}\n{hashlib.sha256(files['MANIFEST.json']).hexdigest()}\n"
        files["MANIFEST.note"] = str(Note(text, (note.sign(text, log.key, log.private.sign),))).encode()

    return altered(bundle, attach)


def test_witnesses_count_once_each_and_must_be_known(check: Callable[..., str], log: Signed, bundle: bytes) -> None:
    one, two = (Ed25519PrivateKey.generate() for _ in range(2))
    first, second = (
        Key(f"witness.test/{at}", COSIGNATURE, private.public_key().public_bytes_raw())
        for at, private in enumerate((one, two))
    )
    known = ["--witness", first.vkey(), "--witness", second.vkey(), "--witnesses", "2"]
    assert check(cosigned(log, bundle, (first, one), (second, two)), *known) == ""
    assert check(cosigned(log, bundle, (first, one), (first, one)), *known) == "too_few_witnesses"
    again = Key("witness.test/alias", COSIGNATURE, first.public)
    aliases = ["--witness", first.vkey(), "--witness", again.vkey(), "--witnesses", "2"]
    assert check(cosigned(log, bundle, (first, one), (again, one)), *aliases) == "too_few_witnesses"
    assert check(bundle, *known) == "too_few_witnesses"
    assert check(cosigned(log, bundle, (first, two)), *known) == "signature_invalid"


def test_keys(check: Callable[..., str], log: Signed, bundle: bytes, tmp_path: Path) -> None:
    other = signed(tmp_path / "other", log.events)
    assert check(other.bundle()) == "unknown_key"  # the export came with a key of its own
    assert check(bundle, key=other.key.vkey()) == "unknown_key"
    assert check(bundle, key="nonsense") == "key_malformed"
    label, _, material = log.key.vkey().split("+", 2)
    assert check(bundle, key=f"{label}+00000000+{material}") == "key_malformed"
    weak = base64.b64encode(b"\x02" + log.key.public).decode()
    assert check(bundle, key=f"{label}+00000000+{weak}") == "key_malformed"  # another algorithm
    collides = note.Signature(ORIGIN, log.key.id, other.private.sign(log.checkpoint().text.encode()))

    def attack(files: dict[str, bytes]) -> None:
        files["checkpoint"] = str(Note(log.checkpoint().text, (collides,))).encode()

    assert check(altered(bundle, attack)) == "signature_invalid"


def test_events_that_were_signed_and_are_wrong_in_themselves(
    check: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundling, "VIEWS", ())  # they need events that are whole
    # Our own exporter refuses what is not canonical; somebody with the key has a program that does not.
    monkeypatch.setattr(bundling, "_parsed", lambda data, _work: json.loads(data))

    def logged(at: int, one: bytes) -> tuple[bytes, str]:
        made = signed(tmp_path / str(at), [event(1), one, event(3)])
        return made.bundle(), made.key.vkey()

    spaced = event(2).replace(b'":"', b'": "', 1)
    cases = {
        "event_not_canonical": spaced,
        "clock_went_back": event(2, time="2025-01-01T00:00:00.000000Z"),
        "event_foreign": event(2, tenant="another"),
        "event_malformed": event(2, type=["a", "list"]),
    }
    for at, (error, one) in enumerate(cases.items()):
        if error == "event_not_canonical":
            assert json.loads(one) == json.loads(event(2))
        data, key = logged(at, one)
        assert check(data, key=key) == error


def test_an_intent_without_an_outcome(check: Callable[..., str], tmp_path: Path) -> None:
    intent = event(1, type="inference.intent")
    ident = json.loads(intent)["id"]
    late = event(2, time="2026-11-02T00:00:00.000000Z")
    crashed = signed(tmp_path / "crashed", [intent, late])
    assert check(crashed.bundle(), key=crashed.key.vkey()) == "intent_without_outcome"
    swept = signed(tmp_path / "swept", [intent, event(2, type="inference.outcome", intent=ident), late])
    assert check(swept.bundle(), key=swept.key.vkey()) == ""


def test_receipts(check: Callable[..., str], log: Signed, bundle: bytes) -> None:
    own, foreign = Signer(log.private), Signer.from_raw(bytes(32))

    def receipt(leaf: bytes, origin: str = ORIGIN, signer: Signer = own) -> bytes:
        said = {"event": "e", "leaf": leaf.hex(), "deadline": "2026-11-01T00:05:00.000000Z", "origin": origin}
        return signer.sign(Purpose.AUDIT, said).encode()

    assert check(bundle, "--receipt", receipt(merkle.leaf_hash(log.events[9]))) == ""
    assert check(bundle, "--receipt", receipt(merkle.leaf_hash(b"never"))) == "receipt_without_leaf"
    assert check(bundle, "--receipt", receipt(bytes(32), "test/audit/other")) == "receipt_foreign"
    assert check(bundle, "--receipt", b"garbage") == "receipt_malformed"
    assert check(bundle, "--receipt", receipt(bytes(32), signer=foreign)) == "unknown_key"  # a false alarm
    forged = receipt(bytes(32), signer=foreign).replace(foreign.key_id.encode(), own.key_id.encode())
    assert check(bundle, "--receipt", forged) == "signature_invalid"


def test_leaf_and_node_are_not_confused(check: Callable[..., str], log: Signed, bundle: bytes) -> None:
    left, right = (merkle.leaf_hash(one) for one in log.events[:2])

    def attack(events: list[bytes]) -> None:
        events[:2] = [b"\x01" + left + right + b"\n"]

    assert check(altered(bundle, lines(attack))) != ""
    assert merkle.leaf_hash(b"\x01" + left + right) != merkle.node_hash(left, right)


def raw_zip(entries: list[tuple[zipfile.ZipInfo, bytes]]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in entries:
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return made.getvalue()


def test_archives_made_to_do_harm(check: Callable[..., str]) -> None:
    link = zipfile.ZipInfo("checkpoint")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    bomb = zipfile.ZipInfo("checkpoint")
    for entries in (
        [(zipfile.ZipInfo("../outside"), b"x")],
        [(zipfile.ZipInfo("/etc/passwd"), b"x")],
        [(zipfile.ZipInfo("a\\..\\b"), b"x")],
        [(link, b"/etc/passwd")],
        [(bomb, bytes(64 << 20))],
    ):
        assert check(raw_zip(entries)) == "zip_unsafe"
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = raw_zip([(zipfile.ZipInfo("checkpoint"), b"a"), (zipfile.ZipInfo("checkpoint"), b"b")])
    assert check(twice) == "zip_unsafe"
    assert check(b"not a zip") == "bundle_unreadable"


def test_cells_that_a_spreadsheet_would_run(tmp_path: Path, check: Callable[..., str]) -> None:
    evil = signed(tmp_path / "evil", [event(1, reason="=cmd|'/c calc'!A1", request_id="@x", site="-2+3")])
    data = evil.bundle()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        row = archive.read("views/events.csv").decode().split("\r\n")[1]
    assert "'=cmd" in row
    assert "'@x" in row
    assert "'-2+3" in row
    assert check(data, key=evil.key.vkey()) == ""


def test_a_proof_of_one_event(tmp_path: Path, log: Signed, capsys: pytest.CaptureFixture[str]) -> None:
    hashes = merkle.inclusion_proof(9, COUNT, log.tree().node)
    head = "\n".join(["c2sp.org/tlog-proof@v1", "index 9", *(base64.b64encode(one).decode() for one in hashes)])

    def run(text: str, data: bytes) -> str:
        (tmp_path / "proof").write_text(text, encoding="utf-8")
        (tmp_path / "event").write_bytes(data)
        arguments = [str(tmp_path / "proof"), "--event", str(tmp_path / "event"), "--key", log.key.vkey()]
        program.main(arguments)
        return capsys.readouterr().err.partition(":")[0]

    assert run(f"{head}\n\n{log.checkpoint()}", log.events[9]) == ""
    assert run(f"{head}\n\n{log.checkpoint()}", log.events[8]) == "proof_invalid"
    assert run(f"{head}\n\n{log.checkpoint(599)}", log.events[9]) == "proof_invalid"  # a proof for another size
    assert run(f"{head.replace('index 9', 'index 10')}\n\n{log.checkpoint()}", log.events[9]) == "proof_invalid"
    assert run("nonsense\n", log.events[9]) == "proof_invalid"


def test_the_verifiers_tree_is_the_logs_tree(log: Signed) -> None:
    made = tree.Tree()
    for start, end in ((0, 100), (100, 437), (437, COUNT)):
        at = start
        for level in tree.levels(start, end):
            made.add(log.tree().node(level, at >> level), level)
            at += 1 << level
    assert made.root() == merkle.Frontier().extended(merkle.leaf_hash(one) for one in log.events).root()
    assert TileFolder(log.folder).read(tile_name(1, 256)) == TileFolder(log.folder).read(name(0, 1))


def test_signatures_are_checked_as_others_check_them() -> None:
    private = Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes_raw()
    for number in range(20):
        message = b"%d" % number
        value = private.sign(message)
        assert ed25519.ed25519_holds(public, message, value)
        assert not ed25519.ed25519_holds(public, message + b"x", value)
        broken: Any = bytearray(value)
        broken[number * 3] ^= 1
        assert not ed25519.ed25519_holds(public, message, bytes(broken))
    large = (int.from_bytes(value[32:], "little") + ed25519.ORDER).to_bytes(32, "little")
    assert not ed25519.ed25519_holds(public, message, value[:32] + large)  # RFC 8032: s is below the order
