"""Whatever is given for an export gets a named error: an archive has one reading, or it is refused.

Each attack is built by hand, byte for byte; the fuzzing below changes bytes of a good export and of its files.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract import canonical
from kasbah.audit.export import bundle as bundling
from kasbah.audit.export.verifier import archive, program, zipreader
from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.failure import Failed
from kasbah.audit.log import note
from kasbah.audit.log.note import Note
from tests.audit.bundles import ORIGIN, Signed, altered, event, signed

NAMED = re.compile(r"^[a-z_]+: .+\n\Z")
Name = Callable[..., str]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return signed(tmp_path_factory.mktemp("log"), [event(number) for number in range(20)])


@pytest.fixture(scope="module")
def bundle(log: Signed) -> bytes:
    """Without views, which take a second to set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundling, "VIEWS", ())
        return log.bundle()


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports without views."""
    monkeypatch.setattr(bundling, "VIEWS", ())


@pytest.fixture
def check(tmp_path: Path, log: Signed, capsys: pytest.CaptureFixture[str]) -> Name:
    """The name of what fails, "" when all holds. What is printed has one line and nothing that a terminal obeys."""

    def run(data: bytes, *arguments: str) -> str:
        (tmp_path / "export.zip").write_bytes(data)
        status = program.main([str(tmp_path / "export.zip"), "--key", log.key.vkey(), *arguments])
        said = capsys.readouterr()
        if status == 0:
            assert said.out.endswith("holds\n")
            return ""
        assert status in (1, 3)
        assert NAMED.match(said.err), said.err
        assert all(one.isprintable() for one in said.err[:-1])
        return said.err.partition(":")[0]

    return run


def packed(name: bytes, data: bytes, **given: Any) -> tuple[bytes, bytes]:
    """A file's header with its data, and its entry in the list without its place; `given` lies in either of them."""
    method, flags = given.get("method", 8), given.get("flags", 0)
    body = given.get("body", zlib.compress(data, 1, -15) if method == 8 else data)
    checksum, sizes = given.get("checksum", zlib.crc32(data)), given.get("sizes", (len(body), len(data)))
    extra, own = given.get("extra", b""), given.get("own", {})
    own_name = own.get("name", name)
    local = struct.pack(
        "<4s5H3L2H", b"PK\3\4", 20, own.get("flags", flags), own.get("method", method), 0, 33,
        own.get("checksum", checksum), *own.get("sizes", sizes), len(own_name), len(extra),
    )  # fmt: skip
    local += own_name + extra + body + given.get("after", b"")
    comment = given.get("comment", b"")
    entry = struct.pack(
        "<4s6H3L5H2L", b"PK\1\2", 0x314, 20, flags, method, 0, 33, checksum, *sizes, len(name), len(extra),
        len(comment), given.get("disk", 0), 0, given.get("mode", 0o100644) << 16, given.get("at", 0),
    )  # fmt: skip
    return local, entry + name + extra + comment


def made(*files: tuple[bytes, bytes], before: bytes = b"", between: bytes = b"", **given: Any) -> bytes:
    """An archive of such files, with what is put into places where nothing belongs."""
    body, entries = before, b""
    for local, entry in files:
        at = struct.pack("<L", given.get("at", len(body)))
        entries += entry[:42] + at + entry[46:]
        body += local
    body += between
    count, start = given.get("count", len(files)), given.get("start", len(body))
    end = struct.pack("<4s4H2LH", b"PK\5\6", given.get("disk", 0), 0, count, count, len(entries), start, 0)
    return body + entries + given.get("end", end) + given.get("after", b"")


GOOD = packed(b"checkpoint", b"x\n" * 40)
LOOSE = packed(b"checkpoint", b"another\n")
DIFFERENT = struct.pack("<4s3L", b"PK\7\x08", 7, 5, 3)
BOMB = zlib.compress(bytes(1 << 20), 1, -15)
XS = zlib.compress(b"x" * 99, 1, -15)
UNKNOWN = {"sizes": (0, 0), "checksum": 0}  # in the header of a file that is described after its end
DESCRIPTION = struct.pack("<4s3L", b"PK\7\x08", zlib.crc32(b"abc"), len(zlib.compress(b"abc", 1, -15)), 3)
ARCHIVES: dict[str, tuple[str, bytes]] = {
    "nothing": ("bundle_unreadable", b""),
    "an end alone": ("file_missing", made()),
    "not a zip": ("bundle_unreadable", b"PK" * 50),
    "a comment": ("zip_ambiguous", made(GOOD)[:-2] + b"\x05\x00hello"),
    "an end that says of a comment": ("zip_ambiguous", made(GOOD)[:-2] + b"\x05\x00"),
    "another archive after it": ("zip_ambiguous", made(GOOD, after=b"\0" * 9)),
    "two archives": ("zip_ambiguous", made(LOOSE) + made(GOOD)),
    "entries prepended": ("zip_ambiguous", made(GOOD, before=LOOSE[0])),
    "a program in front": ("zip_ambiguous", made(GOOD, before=b"#!/bin/sh\n")),
    "an entry that is not listed": ("zip_ambiguous", made(GOOD, between=LOOSE[0])),
    "its places moved by what is in front": ("zip_ambiguous", b"#!/bin/sh\n" + made(GOOD)),
    "overlapping files": ("zip_ambiguous", made(GOOD, packed(b"b", b"b"), at=0)),
    "another name in front": ("zip_ambiguous", made(packed(b"checkpoint", b"x", own={"name": b"checkpoin2"}))),
    "another case in front": ("zip_ambiguous", made(packed(b"checkpoint", b"x", own={"name": b"Checkpoint"}))),
    "another size in front": ("zip_ambiguous", made(packed(b"a", b"x", own={"sizes": (3, 9)}))),
    "another checksum in front": ("zip_ambiguous", made(packed(b"a", b"x", own={"checksum": 1}))),
    "another method in front": ("zip_ambiguous", made(packed(b"a", b"x", own={"method": 0}))),
    "another flag in front": ("zip_ambiguous", made(packed(b"a", b"x", own={"flags": 1}))),
    "encrypted": ("zip_unsafe", made(packed(b"a", b"x", flags=1))),
    "strongly encrypted": ("zip_unsafe", made(packed(b"a", b"x", flags=0x41))),
    "a masked header": ("zip_unsafe", made(packed(b"a", b"x", flags=0x2000))),
    "another packing": ("zip_unsafe", made(packed(b"a", b"x", method=12, body=b"x"))),
    "a stored file that is described": ("zip_unsafe", made(packed(b"a", b"x", method=0, flags=8))),
    "a stored file of two sizes": ("zip_unsafe", made(packed(b"a", b"xy", method=0, sizes=(2, 9)))),
    "a name for other readers": ("zip_ambiguous", made(packed(b"a", b"x", extra=b"\x75\x70\x06\0\1\0\0\0\0b"))),
    "an empty extension": ("zip_ambiguous", made(packed(b"a", b"x", extra=b"\1\0\0\0"))),
    "an extension that is cut off": ("zip_ambiguous", made(packed(b"a", b"x", sizes=(0xFFFFFFFF, 1), extra=b"\1\0"))),
    "large sizes without extension": ("zip_ambiguous", made(packed(b"a", b"x", sizes=(0xFFFFFFFF, 0xFFFFFFFF)))),
    "a file's comment": ("zip_ambiguous", made(packed(b"a", b"x", comment=b"c"))),
    "on another disk": ("zip_ambiguous", made(packed(b"a", b"x", disk=1))),
    "the end on another disk": ("zip_ambiguous", made(GOOD, disk=1)),
    "more files than are listed": ("bundle_unreadable", made(GOOD, count=2)),
    "fewer files than are listed": ("zip_ambiguous", made(GOOD, LOOSE, count=1)),
    "a list elsewhere": ("zip_ambiguous", made(GOOD, start=3)),
    "more files than there is room for": ("bundle_unreadable", made(GOOD, count=0xFFFE)),
    "an end of large archives that is none": ("zip_ambiguous", made(GOOD, count=0xFFFF) + b""),
    "a folder": ("zip_unsafe", made(packed(b"a/", b""))),
    "a folder by its kind": ("zip_unsafe", made(packed(b"a", b"x", mode=0o040755))),
    "a link": ("zip_unsafe", made(packed(b"a", b"/etc/passwd", mode=0o120777))),
    "a device": ("zip_unsafe", made(packed(b"a", b"x", mode=0o020666))),
    "no name": ("zip_unsafe", made(packed(b"", b"x"))),
    "a dot": ("zip_unsafe", made(packed(b"./a", b"x"))),
    "outside": ("zip_unsafe", made(packed(b"a/../../b", b"x"))),
    "a drive": ("zip_unsafe", made(packed(b"C:a", b"x"))),
    "a name with a zero": ("zip_unsafe", made(packed(b"a\0b", b"x"))),
    "a name that a terminal obeys": ("zip_unsafe", made(packed(b"a\x1b[2J", b"x"))),
    "a name in no alphabet": ("zip_unsafe", made(packed("é".encode(), b"x"))),
    "a name that is too long": ("zip_unsafe", made(packed(b"a" * 300, b"x"))),
    "a dot at the end": ("zip_unsafe", made(packed(b"checkpoint.", b"x"))),
    "the same name": ("zip_unsafe", made(GOOD, GOOD)),
    "the same name in another case": ("zip_unsafe", made(GOOD, packed(b"CHECKPOINT", b"x"))),
    "a file and a folder of one name": ("zip_unsafe", made(packed(b"a/b", b"x"), packed(b"a", b"x"))),
    "a bomb": ("zip_unsafe", made(packed(b"checkpoint", bytes(64 << 20)))),
    "a bomb that says it is small": ("zip_unsafe", made(packed(b"checkpoint", b"", body=BOMB, sizes=(len(BOMB), 9)))),
    "a file that is not all there": ("zip_ambiguous", made(packed(b"a", b"x", sizes=(0x7FFFFFFF, 0x7FFFFFF0)))),
    "not packed": ("bundle_unreadable", made(packed(b"checkpoint", b"x", body=b"\xff\xff\xff"))),
    "packed and cut off": ("bundle_unreadable", made(packed(b"checkpoint", b"x" * 99, body=XS[:-2]))),
    "packed bytes after its end": ("zip_ambiguous", made(packed(b"checkpoint", b"x" * 99, body=XS + b"more"))),
    "another checksum": ("bundle_unreadable", made(packed(b"checkpoint", b"x", checksum=7))),
    "another size": ("bundle_unreadable", made(packed(b"checkpoint", b"xyz", sizes=(5, 4)))),
    "a good description": ("file_missing", made(packed(b"a", b"abc", flags=8, own=UNKNOWN, after=DESCRIPTION))),
    "a description that differs": ("zip_ambiguous", made(packed(b"a", b"abc", flags=8, own=UNKNOWN, after=DIFFERENT))),
    "no description": ("zip_ambiguous", made(packed(b"a", b"abc", flags=8, own=UNKNOWN))),
}  # fmt: skip


@pytest.mark.parametrize(("name", "data"), ARCHIVES.values(), ids=ARCHIVES.keys())
def test_an_archive_made_by_hand_is_named(check: Name, name: str, data: bytes) -> None:
    assert check(data) == name


def test_what_other_readers_see_is_refused(check: Name, bundle: bytes) -> None:
    """The controls: each of these is read without complaint, and in part as something else, by a common reader."""
    assert check(bundle) == ""
    hidden = packed(b"checkpoint", b"another")[0]
    moved = bytearray(hidden + bundle)
    end = len(moved) - 22
    count, start = struct.unpack_from("<H", moved, end + 10)[0], struct.unpack_from("<L", moved, end + 16)[0]
    struct.pack_into("<L", moved, end + 16, start + len(hidden))
    at = start + len(hidden)
    for _ in range(count):
        sizes = struct.unpack_from("<3H", moved, at + 28)
        struct.pack_into("<L", moved, at + 42, struct.unpack_from("<L", moved, at + 42)[0] + len(hidden))
        at += 46 + sum(sizes)
    commented = bundle[:-2] + struct.pack("<H", 7) + b"comment"
    for data in (bytes(moved), commented, hidden + bundle):
        with zipfile.ZipFile(io.BytesIO(data)) as other:
            assert other.testzip() is None
        assert check(data) in ("zip_ambiguous", "bundle_unreadable")


@pytest.mark.parametrize("large", [False, True])
def test_archives_as_the_exporter_and_other_programs_write_them(
    log: Signed, bundle: bytes, large: bool, check: Name
) -> None:
    """As a stream, with extensions for large archives, stored: one reading, and it is read."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.got = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.got += data
            return len(data)

    with zipfile.ZipFile(io.BytesIO(bundle)) as source:
        files = {name: source.read(name) for name in source.namelist()}
    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as target:
        for name, data in files.items():
            with target.open(zipfile.ZipInfo(name), "w", force_zip64=large) as file:
                file.write(data)
    streamed = bytes(pipe.got)
    stored = io.BytesIO()
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as target:
        for name, data in files.items():
            target.writestr(name, data)
    assert check(altered(bundle, lambda _files: None)) == check(stored.getvalue()) == ""
    assert check(streamed) == "zip_unsafe", "stored, and its end is only known from what follows"


@pytest.mark.slow
def test_more_files_than_a_plain_archive_can_list(tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    with zipfile.ZipFile(path, "w") as target:
        for number in range(66_000):
            target.writestr(f"tile/0/{number}", b"x")
    found = Bundle(str(path))
    assert len(found.infos) == 66_000
    assert found.read("tile/0/65999") == b"x"
    found.close()
    data = bytearray(path.read_bytes())
    data[-22 - 20 - 56 + 24] ^= 1  # the number of files that the end for large archives says
    path.write_bytes(data)
    with pytest.raises(Failed) as refused:
        Bundle(str(path))
    assert refused.value.name == "zip_ambiguous"


def signed_manifest(log: Signed, bundle: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """An export whose maker has the key and writes what he likes into the manifest."""

    def attack(files: dict[str, bytes]) -> None:
        manifest = json.loads(files["MANIFEST.json"])
        change(manifest)
        files["MANIFEST.json"] = json.dumps(manifest).encode()
        text = f"{archive.FORMAT}\n{ORIGIN}\n{hashlib.sha256(files['MANIFEST.json']).hexdigest()}\n"
        files["MANIFEST.note"] = str(Note(text, (note.sign(text, log.key, log.private.sign),))).encode()

    return altered(bundle, attack)


VALUES: list[Any] = [None, True, -1, 1.5, float("nan"), 2**60, 10**400, "", "x", "\ud800", [], [None], {}, {"a": {}}]


def test_a_manifest_of_any_shape_is_named(check: Name, log: Signed, bundle: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle)) as source:
        manifest = json.loads(source.read("MANIFEST.json"))
    for field in manifest:
        for value in [one for one in VALUES if one != manifest[field]]:
            assert check(signed_manifest(log, bundle, lambda said: said.update({field: value}))), (field, value)  # noqa: B023
        assert check(signed_manifest(log, bundle, lambda said: said.pop(field))) != "", field  # noqa: B023
    nested = ("selection", "files")
    for field in nested:
        for value in VALUES:
            change = lambda said: said[field].update(dict.fromkeys(said[field], value))  # noqa: B023, E731
            assert check(signed_manifest(log, bundle, change)), (field, value)


TEXTS: dict[str, bytes] = {
    "nothing": b"",
    "not UTF-8": b"\xff\xfe\x00",
    "a zero": b"\0",
    "nested": b"[" * 60_000,
    "nested objects": b'{"a":' * 10_000,
    "a list": b"[]\n",
    "a text": b'"x"\n',
    "a number of 5,000 digits": b"9" * 5_000 + b"\n",
    "not a number": b"NaN\n",
    "half a character": b'"\\ud800"\n',
    "a key twice": b'{"a":1,"a":2}\n',
    "no end": b"x" * 200_000,
    "a terminal's orders": b'{"\x1b[2J":1}\n',
    "another shape": b'{"start":0,"end":[],"reason":{},"hashes":0,"request_id":1,"part":2,"event":3}\n',
    "huge numbers": b'{"start":0,"end":99999999999999999999,"reason":"outside","hashes":[]}\n',
    "many hashes": b'{"start":0,"end":20,"reason":"pruned","hashes":[' + b'"AA==",' * 5_000 + b'"AA=="]}\n',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_file_of_any_content_is_named(check: Name, bundle: bytes, text: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(bundle)) as source:
        names = source.namelist()
    names += [
        "keys/0000.note",
        "erasures.jsonl",
        "content/unopened.json",
        "dossier/receipt-1.json",
        "checkpoint.previous",
    ]
    for name in names:
        if name != "gaps.jsonl" or text:  # there is none
            assert check(altered(bundle, lambda files: files.update({name: text}))), name  # noqa: B023


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_a_file_of_any_content_that_was_signed_is_named(log: Signed, check: Name, plain: None, text: bytes) -> None:
    """Beside the events whoever has the key may sign anything; where no shape is asked for it is a file as it is."""
    plan = log.plan(selection={"kind": "request", "by": "req_1"}, opened=["prompt"])
    for name in (
        "erasures.jsonl", "content/unopened.json", "content/req_1.prompt.json", "dossier/receipt-1.json",
        "dossier/model-1.json", "dossier/policy-1.json", "evidence/3.json", "consistency.txt", "checkpoint.previous",
        "keys/0000.note", "holds.json", "dossier/system/1.json", "evidence/99999999999999999999.json",
    ):  # fmt: skip
        found = check(log.written(plan, [(name, [text])]))
        free = name in ("holds.json", "consistency.txt", "evidence/99999999999999999999.json")
        assert found or free or text in (b"", b"[]\n"), (name, found)


@pytest.mark.slow
def test_events_of_any_shape_are_named(check: Name, tmp_path: Path, log: Signed, plain: None) -> None:
    fields = [
        *json.loads(event(1)),
        "intent",
        "details",
        "tokens",
        "policy",
        "model",
        "resource",
        "commitments",
        "reason",
    ]
    kinds = ("inference.intent", "inference.outcome", "inference.denied", "log.pruned", "content.erased")
    values = [None, True, 2**53 - 1, [], [[]], {}, {"ranges": [1]}, {"ranges": 7, "requests": 7}, {"prompt": []}, ["x"]]
    cases = [{"type": kind, field: value} for kind in kinds for field in fields for value in values]
    random.Random(7).shuffle(cases)
    for at, case in enumerate(cases[:60]):
        one = signed(tmp_path / str(at), [event(0), canonical.dumps(json.loads(event(1)) | case)], log.private)
        (tmp_path / "export.zip").write_bytes(one.bundle())
        check(one.bundle())
        check(one.bundle(), "--log-only")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Some bytes flipped, cut out, doubled or set to what formats find hard."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(found))
        match chance.randrange(6):
            case 0:
                found[at] ^= 1 << chance.randrange(8)
            case 1:
                found[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"PK\1\2", b"PK\5\6", b"PK\3\4"))
            case 2:
                del found[at : at + chance.randrange(1, 40)]
            case 3:
                found[at:at] = found[at : at + chance.randrange(1, 40)]
            case 4:
                del found[at:]
            case _:
                end = len(found) - chance.randrange(1, min(400, len(found)))
                found[end] = chance.randrange(256)
        if not found:
            break
    return bytes(found)


@pytest.mark.slow
def test_no_change_of_bytes_is_a_traceback_or_holds(check: Name, bundle: bytes) -> None:
    """A fixed seed, so that what fails once fails again."""
    chance = random.Random(20_261_101)
    names: set[str] = set()
    for _ in range(1_500):
        data = mutated(bundle, chance)
        found = check(data, "--log-only")
        names.add(found)
        if not found:
            with zipfile.ZipFile(io.BytesIO(data)) as one, zipfile.ZipFile(io.BytesIO(bundle)) as other:
                assert {name: one.read(name) for name in one.namelist()} == {n: other.read(n) for n in other.namelist()}
    assert {"zip_ambiguous", "bundle_unreadable", "zip_unsafe"} <= names


@pytest.mark.slow
def test_no_change_of_a_file_is_a_traceback_or_holds(check: Name, bundle: bytes) -> None:
    chance = random.Random(20_261_102)
    with zipfile.ZipFile(io.BytesIO(bundle)) as source:
        names = [name for name in source.namelist() if not name.endswith((".pdf", ".html", ".py"))]
    for _ in range(300):
        name = chance.choice(names)
        changed: list[bytes] = []

        def change(files: dict[str, bytes]) -> None:
            changed.append(files[name])  # noqa: B023
            files[name] = mutated(files[name] or b"{}", chance)  # noqa: B023
            changed.append(files[name])  # noqa: B023

        found = check(altered(bundle, change))
        assert found or changed[0] == changed[1], name


def test_no_reader_is_needed_to_trust_what_nobody_thought_of(
    check: Name, bundle: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: with a reader that finds files as common programs do, what others see passes."""

    def lenient(file: Any, _length: int) -> dict[str, zipreader.Entry]:
        found = {}
        with warnings.catch_warnings(), zipfile.ZipFile(file) as opened:
            for info in opened.infolist():
                file.seek(info.header_offset + 26)
                sizes = struct.unpack("<2H", file.read(4))
                data = info.header_offset + 30 + sum(sizes)
                found[info.filename] = zipreader.Entry(
                    info.filename,
                    info.compress_type,
                    info.CRC,
                    info.compress_size,
                    info.file_size,
                    info.header_offset,
                    data,
                )
        return found

    hostile = packed(b"checkpoint", b"another")[0] + bundle[:-2] + struct.pack("<H", 7) + b"comment"
    assert check(hostile) == "zip_ambiguous"
    monkeypatch.setattr(archive, "read_directory", lenient)
    assert check(hostile) == ""


MEASURE = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    with open("/proc/self/status") as status:
        print(next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM")), file=sys.stderr)
"""
LINE = b'{"start":0,"end":1,"hashes":[],"reason":"outside"}\n'
UNITS = {"no line end": b"x" * 4096, "line ends alone": b"\n" * 4096, "nested": b"[" * 4096, "short lines": LINE * 80}
LONG = [(name, "no line end") for name in ("gaps.jsonl", "checkpoint", "MANIFEST.json", "keys/0000.note")]
LONG += [("events.jsonl", unit) for unit in UNITS] + [("gaps.jsonl", "short lines")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "unit"), LONG)
def test_memory_is_bounded_by_the_longest_line(
    tmp_path: Path, log: Signed, bundle: bytes, name: str, unit: str
) -> None:
    """A bundle without line ends, or of nothing else, took 2.3 GB. Here 192 MiB unpacked, noise enough to be let in."""
    path, size = tmp_path / "export.zip", 192 << 20
    noise = random.Random(1).randbytes(size // 900).hex().encode()  # so that not the ratio is what is seen
    with zipfile.ZipFile(io.BytesIO(bundle)) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for one in source.namelist():
            if one != name:
                target.writestr(one, source.read(one))
        with target.open(name, "w") as file:
            for _ in range(size >> 20):
                file.write(UNITS[unit] * ((1 << 20) // len(UNITS[unit])))
            file.write(noise)
        (tmp_path / "verify.py").write_bytes(source.read("verify.py"))
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        MEASURE,
        str(tmp_path / "verify.py"),
        str(path),
        "--key",
        log.key.vkey(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    first, *_, used = done.stderr.strip().split("\n")
    assert (done.returncode, NAMED.match(first + "\n") is not None) == (1, True), done.stderr[-500:]
    assert int(used) < 100, f"{used} MiB"
