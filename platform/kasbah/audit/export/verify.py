"""Check an audit export of Kasbah on a machine of your own: Python 3.10 or newer, its standard library, no network.

    python3 verify.py export.zip --key 'kasbah/audit/TENANT+0a1b2c3d+AQ...'

The key is not a secret, but it must reach you by another way than the export: whoever could write the one could write
the other. What this program checks, and what no log can show, is said in VERIFY.md beside it.

Exit status: 0 all holds; 1 something does not, and its name stands in front of the message; 2 the program was called
wrongly. Formats: C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-tiles; RFC 6962; RFC 8032; RFC 8785.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import csv
import hashlib
import hmac
import io
import json
import multiprocessing
import os
import re
import sys
import zipfile
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Any

Facts = dict[str, Any]
Point = tuple[int, int, int, int]
FORMAT = "kasbah-audit-export@v1"
MAX_FILE = 64 << 30  # bytes of one file, unpacked
MAX_SMALL = 64 << 20  # of a file that is read whole
RATIO = 1000  # by which a file may at most be packed; an event log packs about tenfold
MAX_FILES = 200_000
LINE = 65_535  # bytes of an event
BACKWARDS = 300  # seconds by which an event may lie before an earlier one: transactions overlap, clocks are adjusted
MANY = 20_000  # events from which on several processes share the work
BLOCK = 1 << 20  # bytes of events that are looked at together
OPEN = 3600  # seconds after which a request must have its outcome


class Failed(Exception):
    """What does not hold. `name` is stable; there is one for each known attack."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


# --- Ed25519 (RFC 8032, section 5.1), only what verifying needs; a note is checked in some milliseconds ---

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def ed25519_holds(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the 64-byte signature over `message` is by the 32-byte key."""
    if len(public) != 32 or len(signature) != 64:
        return False
    s = int.from_bytes(signature[32:], "little")
    key, commitment = _decompress(public), _decompress(signature[:32])
    if key is None or commitment is None or s >= ORDER:
        return False
    h = int.from_bytes(hashlib.sha512(signature[:32] + public + message).digest(), "little") % ORDER
    left, right = _times(s, BASE), _add(commitment, _times(h, key))
    return all((left[i] * right[2] - right[i] * left[2]) % P == 0 for i in (0, 1))


def _decompress(data: bytes) -> Point | None:
    y = int.from_bytes(data, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


def _add(one: Point, two: Point) -> Point:
    a = (one[1] - one[0]) * (two[1] - two[0]) % P
    b = (one[1] + one[0]) * (two[1] + two[0]) % P
    c = 2 * one[3] * two[3] * D % P
    d = 2 * one[2] * two[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(scalar: int, point: Point) -> Point:
    result: Point = (0, 1, 1, 0)
    while scalar:
        if scalar & 1:
            result = _add(result, point)
        point = _add(point, point)
        scalar >>= 1
    return result


BASE = _decompress((4 * pow(5, P - 2, P) % P).to_bytes(32, "little")) or (0, 1, 1, 0)


# --- Notes and checkpoints ---


class Key:
    """A verifier's key, `NAME+ID+KEY` (signed-note, Verifier keys). Type 1 is a log's, type 4 a witness's."""

    def __init__(self, text: str, types: tuple[int, ...] = (1, 4)) -> None:
        try:
            self.name, key_id, material = text.strip().split("+", 2)
            raw = base64.b64decode(material, validate=True)
            self.id, self.type, self.public = bytes.fromhex(key_id), raw[0], raw[1:]
        except (ValueError, IndexError) as error:
            raise Failed("key_malformed", f"not a key of the form NAME+ID+KEY: {text[:80]!r}") from error
        wanted = hashlib.sha256(self.name.encode() + b"\n" + raw).digest()[:4]
        if self.type not in types or len(self.public) != 32 or self.id != wanted:
            raise Failed("key_malformed", f"the key of {self.name} does not fit its id, or is not Ed25519")

    def holds(self, text: str, value: bytes) -> bool:
        """Whether a signature over a note's text is by this key."""
        if self.type == 4:
            text = f"cosignature/v1\ntime {int.from_bytes(value[:8], 'big')}\n" + text
            value = value[8:]
        return ed25519_holds(self.public, text.encode(), value)


def read_note(data: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """The text of a note and its signatures (name, id, value)."""
    text, separator, rest = data.rpartition("\n\n")
    lines = rest.split("\n")
    signatures = []
    for line in lines[:-1]:
        match = re.fullmatch("\u2014 ([^ +]+) ([A-Za-z0-9+/=]+)", line)
        try:
            raw = base64.b64decode(match[2], validate=True) if match else b""
        except binascii.Error:
            raw = b""
        if match is None or len(raw) < 5:
            raise Failed("note_malformed", "a signature line is not one")
        signatures.append((match[1], raw[:4], raw[4:]))
    if not separator or lines[-1] or not signatures:
        raise Failed("note_malformed", "a signed note has a text, an empty line and signatures")
    return text + "\n", signatures


def signed_by(data: str, keys: list[Key], what: str) -> tuple[str, set[Key]]:
    """The text of a note, and which of `keys` signed it. A signature of one of them that does not hold fails."""
    text, signatures = read_note(data)
    found: set[Key] = set()
    for name, key_id, value in signatures:
        for key in keys:
            if (key.name, key.id) == (name, key_id):
                if not key.holds(text, value):
                    raise Failed("signature_invalid", f"{what}: the signature of {name} does not hold")
                found.add(key)
    return text, found


def read_checkpoint(data: str, key: Key, what: str = "checkpoint") -> tuple[int, bytes]:
    """(size, root) of a checkpoint that the log's key signed."""
    text, found = signed_by(data, [key], what)
    if not found:
        raise Failed("unknown_key", f"{what}: not signed by the key that was given ({key.name})")
    lines = text.split("\n")
    if len(lines) < 4 or lines[0] != key.name or not re.fullmatch("0|[1-9][0-9]*", lines[1]):
        raise Failed("checkpoint_malformed", f"{what}: it is not a checkpoint of {key.name}")
    root = base64.b64decode(lines[2])
    if len(root) != 32:
        raise Failed("checkpoint_malformed", f"{what}: its root has not 32 bytes")
    return int(lines[1]), root


# --- The tree (RFC 6962) ---


def leaf_hash(data: bytes) -> bytes:
    """Hash of an entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """Complete subtrees as (level, hash), the largest first; what is added merges with its equal."""

    def __init__(self) -> None:
        self.nodes: list[tuple[int, bytes]] = []
        self.size = 0

    def add(self, digest: bytes, level: int = 0) -> None:
        """A complete subtree to the right of all that is there."""
        if self.size % (1 << level):
            raise Failed("range_malformed", "a subtree does not lie where its size lets it lie")
        self.size += 1 << level
        nodes = self.nodes
        while nodes and nodes[-1][0] == level:
            digest = node_hash(nodes.pop()[1], digest)
            level += 1
        nodes.append((level, digest))

    def root(self) -> bytes:
        """Root of all."""
        root: bytes | None = None
        for _, digest in reversed(self.nodes):
            root = digest if root is None else node_hash(digest, root)
        return root if root is not None else hashlib.sha256(b"").digest()


def levels(start: int, end: int) -> Iterator[int]:
    """Levels of the complete subtrees that cover [start, end), from the left."""
    while start < end:
        level = min((start & -start).bit_length() - 1 if start else 63, (end - start).bit_length() - 1)
        yield level
        start += 1 << level


def check_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: list[bytes]) -> None:
    """The later tree begins with the earlier one (RFC 9162, section 2.1.4.2)."""
    wrong = Failed("history_rewritten", f"the log of {size} events does not begin with the log of {old} that was kept")
    if old > size:
        raise Failed("history_rewritten", f"a log of {old} events was kept, and this one has {size}")
    if old in (0, size):
        if old == size and old_root != root:
            raise Failed("split_view", f"two different logs of {size} events were signed")
        return
    hashes = list(proof) if old & (old - 1) else [old_root, *proof]
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    if not hashes:
        raise wrong
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise wrong
        if at & 1 or at == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        at, last = at >> 1, last >> 1
    if last or before != old_root or after != root:
        raise wrong


def check_inclusion(leaf: bytes, index: int, size: int, root: bytes, proof: list[bytes]) -> None:
    """The leaf stands at `index` (RFC 9162, section 2.1.3.2)."""
    at, last, digest = index, size - 1, leaf
    for sibling in proof:
        if last <= 0:
            raise Failed("proof_invalid", "the inclusion proof is too long for this tree")
        if at & 1 or at == last:
            digest = node_hash(sibling, digest)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            digest = node_hash(digest, sibling)
        at, last = at >> 1, last >> 1
    if not 0 <= index < size or last or digest != root:
        raise Failed("proof_invalid", "the inclusion proof does not lead from the event to the signed root")


# --- The archive ---


class Bundle:
    """The export's files, read with care: an archive from elsewhere may be made to do harm."""

    def __init__(self, path: str) -> None:
        try:
            self.zip = zipfile.ZipFile(path)
            infos = self.zip.infolist()
        except (OSError, zipfile.BadZipFile) as error:
            raise Failed("bundle_unreadable", f"{path}: {error}") from error
        if len(infos) > MAX_FILES:
            raise Failed("zip_unsafe", f"it has {len(infos)} files")
        self.infos: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            name = info.filename
            link = (info.external_attr >> 16) & 0o170000 not in (0, 0o100000)
            outside = name.startswith("/") or "\\" in name or ":" in name or ".." in name.split("/")
            if link or outside or name.endswith("/"):
                raise Failed("zip_unsafe", f"{name!r} is a link, a folder or lies outside")
            if name in self.infos:
                raise Failed("zip_unsafe", f"{name!r} is there twice")
            if info.file_size > MAX_FILE or info.file_size > RATIO * max(info.compress_size, 1024):
                raise Failed("zip_unsafe", f"{name!r} would unpack to {info.file_size} bytes")
            self.infos[name] = info

    def open(self, name: str) -> IO[bytes]:
        """A file as a stream."""
        if name not in self.infos:
            raise Failed("file_missing", f"{name} is not in the export")
        return self.zip.open(self.infos[name])

    def read(self, name: str) -> bytes:
        """A small file, whole."""
        if name in self.infos and self.infos[name].file_size > MAX_SMALL:
            raise Failed("zip_unsafe", f"{name!r} is larger than such a file is")
        with self.open(name) as file:
            return file.read(MAX_SMALL + 1)

    def text(self, name: str) -> str:
        """A small file as text."""
        try:
            return self.read(name).decode()
        except UnicodeDecodeError as error:
            raise Failed("bundle_unreadable", f"{name} is not UTF-8") from error


def read_manifest(bundle: Bundle, key: Key) -> Facts:
    """The manifest, which the log's key signed, and whose digests every file has."""
    data = bundle.read("MANIFEST.json")
    text, found = signed_by(bundle.text("MANIFEST.note"), [key], "MANIFEST.note")
    if not found:
        raise Failed("unknown_key", f"MANIFEST.note: not signed by the key that was given ({key.name})")
    if text != f"{FORMAT}\n{key.name}\n{hashlib.sha256(data).hexdigest()}\n":
        raise Failed("manifest_changed", "MANIFEST.json is not the one that was signed")
    manifest: Facts = json.loads(data)
    if manifest.get("format") != FORMAT or manifest.get("origin") != key.name:
        raise Failed("manifest_changed", "the manifest is of another format or another log")
    extra = set(bundle.infos) - set(manifest["files"]) - {"MANIFEST.json", "MANIFEST.note"}
    if extra:
        raise Failed("file_unknown", f"{sorted(extra)[0]} is not in the manifest")
    return manifest


def check_files(bundle: Bundle, manifest: Facts, skip: set[str]) -> None:
    """Every file but `skip` is the one that the manifest names."""
    for name, said in manifest["files"].items():
        if name in skip:
            continue
        digest = hashlib.sha256()
        with bundle.open(name) as file:
            while block := file.read(1 << 20):
                digest.update(block)
        if digest.hexdigest() != said["sha256"]:
            raise Failed("file_changed", f"{name} is not the file that was signed")


# --- Events ---


def _no_float(text: str) -> Any:
    raise ValueError(f"{text} is not an integer")


# RFC 8785, restricted: what was hashed must be what ENCODER writes again, so a key that is there twice is seen too.
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
DECODER = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float)


class Part:
    """What is found in some events that follow each other; workers send it back, so it holds plain values."""

    def __init__(self, number: int) -> None:
        self.first = number
        self.leaves: list[bytes] = []
        self.rows = io.StringIO()  # of the view
        self.failure: tuple[str, str] | None = None
        self.earliest, self.latest = float("inf"), 0.0
        self.types: dict[str, int] = {}
        self.intents: dict[str, float] = {}  # event -> time
        self.answered: list[str] = []

    def __getstate__(self) -> Facts:
        return self.__dict__ | {"rows": self.rows.getvalue()}

    def __setstate__(self, state: Facts) -> None:
        self.__dict__.update(state | {"rows": io.StringIO(state["rows"])})


def check_part(tenant: str, number: int, lines: list[bytes]) -> Part:
    """Look at each event by itself, in whatever process."""
    part = Part(number)
    rows = csv.writer(part.rows, lineterminator="\r\n")
    try:
        for line in lines:
            event = _event(line, tenant, number)
            part.leaves.append(leaf_hash(line[:-1]))
            rows.writerow(row_of(number, event))
            _note(part, event, number)
            number += 1
    except Failed as failure:
        part.failure = (failure.name, str(failure))
    except (KeyError, TypeError, AttributeError) as error:
        part.failure = ("event_malformed", f"event {number}: {type(error).__name__}: {error}")
    return part


def _event(line: bytes, tenant: str, number: int) -> Facts:
    if len(line) > LINE + 1 or not line.endswith(b"\n"):
        raise Failed("event_not_canonical", f"event {number} is too long or does not end its line")
    try:
        text = line[:-1].decode()
        event: Facts = DECODER.decode(text)
        same = ENCODER.encode(event) == text
    except ValueError as error:
        raise Failed("event_not_canonical", f"event {number}: {error}") from error
    if not same:
        raise Failed("event_not_canonical", f"event {number} is not written as it must be")
    if event.get("tenant", "system") != tenant:
        raise Failed("event_foreign", f"event {number} is not of this log")
    return event


def _note(part: Part, event: Facts, number: int) -> None:
    at = datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()
    if at < part.latest - BACKWARDS:
        raise Failed("clock_went_back", f"event {number} is {part.latest - at:.0f} s older than one before it")
    part.earliest, part.latest = min(at, part.earliest), max(at, part.latest)
    kind = event["type"]
    part.types[kind] = part.types.get(kind, 0) + 1
    if kind == "inference.intent":
        part.intents[event["id"]] = at
    elif "intent" in event:
        part.answered.append(event["intent"])


class Events:
    """What was seen of all events, put together in their order."""

    def __init__(self) -> None:
        self.latest = 0.0
        self.open: dict[str, float] = {}  # intents without outcome: event -> time
        self.types: dict[str, int] = {}

    def take(self, part: Part) -> None:
        """The next part."""
        if part.failure is not None:
            raise Failed(*part.failure)
        if part.earliest < self.latest - BACKWARDS:
            raise Failed("clock_went_back", f"after event {part.first} one is older than those before")
        self.latest = max(part.latest, self.latest)
        for kind, number in part.types.items():
            self.types[kind] = self.types.get(kind, 0) + number
        self.open.update(part.intents)
        for intent in part.answered:
            self.open.pop(intent, None)

    def unanswered(self) -> list[str]:
        """Intents that have had time for an outcome, and have none."""
        return [event for event, at in self.open.items() if at < self.latest - OPEN]


def check_parts(file: IO[bytes], digest: Any, manifest: Facts) -> Iterator[Part]:
    """Every event of a file, in order; many are looked at by several processes at once."""
    tenant, number = manifest["origin"].rsplit("/", 1)[-1], manifest["start"]
    workers = min(4, os.cpu_count() or 1) if manifest["end"] - number >= MANY else 1
    waiting: deque[Any] = deque()
    with multiprocessing.Pool(workers) if workers > 1 else contextlib.nullcontext() as pool:
        while lines := file.readlines(BLOCK):
            digest.update(b"".join(lines))
            if pool is None:
                yield check_part(tenant, number, lines)
            else:
                waiting.append(pool.apply_async(check_part, (tenant, number, lines)))
                if len(waiting) > 2 * workers:  # no more lies in memory than the processes need to be busy
                    yield waiting.popleft().get()
            number += len(lines)
        while waiting:
            yield waiting.popleft().get()


def known_leaves(bundle: Bundle, manifest: Facts) -> list[bytes]:
    """The leaf hashes that the tiles hold, for the range of the export."""
    start, end, size = manifest["start"], manifest["end"], manifest["size"]
    found: list[bytes] = []
    for index in range(start // 256, (end + 255) // 256):
        data = bundle.read(tile_name(index, min(256, size - index * 256)))
        first = index * 256
        rows = [data[at : at + 32] for at in range(0, len(data), 32)]
        found += rows[max(start - first, 0) : end - first]
    return found


def tile_name(index: int, width: int) -> str:
    """Path of a tile of level 0 (tlog-tiles)."""
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.insert(0, f"x{index % 1000:03d}")
    return "tile/0/" + "/".join(parts) + (f".p/{width}" if width < 256 else "")


def diagnose(given: list[bytes], wanted: list[bytes]) -> Failed:
    """Why the events are not the leaves that were signed. `given` and `wanted` are leaf hashes."""
    places = {leaf: index for index, leaf in enumerate(wanted)}
    unknown = next((at for at, leaf in enumerate(given) if leaf not in places), None)
    if len(set(given)) < len(given):
        return Failed("event_duplicated", "an event is there twice")
    if unknown is not None:
        if len(given) > len(wanted):
            return Failed("event_inserted", f"event {unknown} was never in the log")
        return Failed("event_changed", f"event {unknown} is not the one that was signed")
    if len(given) < len(wanted):
        if given == wanted[: len(given)]:
            return Failed("tail_cut", f"the last {len(wanted) - len(given)} events are missing")
        return Failed("event_missing", f"{len(wanted) - len(given)} events are missing")
    return Failed("events_reordered", "the events are not in the order in which they were signed")


# --- What else an export may hold ---

COLUMNS = ("index", "id", "time", "type", "outcome", "actor", "resource", "reason", "request_id", "site", "worker")
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def row_of(number: int, event: Facts) -> list[str]:
    """One row of views/events.csv; a cell that a spreadsheet would run as a formula gets an apostrophe."""
    actor, resource = event.get("actor", {}), event.get("resource", {})
    plain = {
        "index": str(number),
        "actor": f"{actor.get('kind', '')}:{actor.get('id', '')}",
        "resource": f"{resource.get('type', '')}:{resource.get('id', '')}" if resource else "",
    }
    cells = [plain[name] if name in plain else str(event.get(name, "")) for name in COLUMNS]
    return ["'" + cell if cell.startswith(FORMULA) else cell for cell in cells]


class View:
    """views/events.csv, derived again while the events are read."""

    def __init__(self, bundle: Bundle) -> None:
        self.lines: io.TextIOWrapper | None = None
        if "views/events.csv" in bundle.infos:
            self.lines = io.TextIOWrapper(bundle.open("views/events.csv"), encoding="utf-8", newline="")
            self.expect(",".join(COLUMNS) + "\r\n", "the head")

    def expect(self, text: str, what: str) -> None:
        """The next rows."""
        if self.lines is not None and self.lines.read(len(text)) != text:
            raise Failed("view_differs", f"views/events.csv does not say what the log says ({what})")

    def end(self) -> None:
        """Nothing may follow."""
        if self.lines is not None and self.lines.read(1):
            raise Failed("view_differs", "views/events.csv has more rows than the log has events")


def read_events(bundle: Bundle, manifest: Facts, boundary: Facts) -> tuple[Events, bytes | None, str]:
    """Every event, its leaf in the tree, its row in the view. Returns what was seen of them."""
    before, after = ([base64.b64decode(one) for one in boundary[side]] for side in ("before", "after"))
    start, end, size = manifest["start"], manifest["end"], manifest["size"]
    tree, events, view, digest = Tree(), Events(), View(bundle), hashlib.sha256()
    for level, node in zip(levels(0, start), before, strict=False):
        tree.add(node, level)
    with bundle.open("events.jsonl") as file:
        for part in check_parts(file, digest, manifest):
            events.take(part)
            view.expect(part.rows.getvalue(), f"from row {part.first}")
            for leaf in part.leaves:
                tree.add(leaf)
    view.end()
    for level, node in zip(levels(end, size), after, strict=False):
        tree.add(node, level)
    exact = (tree.size, len(before), len(after)) == (size, len(list(levels(0, start))), len(list(levels(end, size))))
    return events, tree.root() if exact else None, digest.hexdigest()


def leaves_given(bundle: Bundle) -> list[bytes]:
    """Leaf hashes of the events as they stand in the export."""
    with bundle.open("events.jsonl") as file:
        return [leaf_hash(line.rstrip(b"\n")) for line in file]


def check_log(bundle: Bundle, manifest: Facts, root: bytes) -> Events:
    """The events are the leaves between `start` and `end` of the signed tree: none changed, added, left out."""
    boundary = json.loads(bundle.read("range.json"))
    try:
        events, found, digest = read_events(bundle, manifest, boundary)
    except Failed:
        explain(bundle, manifest)  # a changed event is what is wrong, not what the change made of it
        raise
    if found != root:
        explain(bundle, manifest)
        raise Failed("root_mismatch", "events and tiles fit each other, and not what was signed")
    if digest != manifest["files"]["events.jsonl"]["sha256"]:
        raise Failed("file_changed", "events.jsonl is not the file that was signed")
    left = events.unanswered()
    if left:
        raise Failed("intent_without_outcome", f"{len(left)} requests have no outcome, the first is event {left[0]}")
    return events


def explain(bundle: Bundle, manifest: Facts) -> None:
    """Raise what is wrong with the events, where the tiles tell it."""
    given, wanted = leaves_given(bundle), known_leaves(bundle, manifest)
    if given != wanted:
        raise diagnose(given, wanted)


def check_content(bundle: Bundle, manifest: Facts) -> int:
    """Opened content is what the events committed to: HMAC-SHA256 under the opening (docs/auditor/content.md)."""
    names = [name for name in manifest["files"] if name.startswith("content/")]
    if not names:
        return 0
    committed: dict[str, str] = {}
    erased: set[str] = set()
    with bundle.open("events.jsonl") as file:
        for line in file:
            event = json.loads(line)
            for part, value in event.get("commitments", {}).items():
                committed[f"content/{event.get('request_id')}.{part}.json"] = value
            if event["type"] == "content.erased":
                erased.update(event.get("details", {}).get("requests", []))
    for name in names:
        opened = json.loads(bundle.read(name))
        value, key = base64.b64decode(opened["bytes"]), base64.b64decode(opened["opening"])
        if opened.get("request_id") in erased:
            raise Failed("content_survives_erasure", f"{name} was erased and is still there")
        if hmac.new(key, value, hashlib.sha256).hexdigest() != committed.get(name):
            raise Failed("content_mismatch", f"{name} is not what was committed to")
    return len(names)


def check_witnesses(note: str, witnesses: list[Key], wanted: int) -> int:
    """Enough of the known witnesses saw this checkpoint; each counts once."""
    _, found = signed_by(note, witnesses, "checkpoint")
    names = {key.public for key in found}
    if len(names) < wanted:
        raise Failed("too_few_witnesses", f"{len(names)} of the witnesses given signed the checkpoint, {wanted} must")
    return len(names)


def check_previous(bundle: Bundle, key: Key, size: int, root: bytes, kept: str | None) -> None:
    """The log begins with what was kept from an earlier export, or with the earlier checkpoint in this one."""
    if kept is None:
        if "checkpoint.previous" in bundle.infos:
            proof = [base64.b64decode(line) for line in bundle.text("consistency.txt").split()]
            check_consistency(*read_checkpoint(bundle.text("checkpoint.previous"), key, "previous"), size, root, proof)
        return
    old, old_root = read_checkpoint(kept, key, "the checkpoint that was kept")
    tree = Tree()
    whole = min(old, size)
    for index in range((whole + 255) // 256):
        data = bundle.read(tile_name(index, min(256, size - index * 256)))
        for at in range(0, min(256, whole - index * 256) * 32, 32):
            tree.add(data[at : at + 32])
    if old > size:
        raise Failed("history_rewritten", f"a log of {old} events was kept, and this one has {size}")
    if tree.root() != old_root:
        name = "split_view" if old == size else "history_rewritten"
        raise Failed(name, f"the log does not begin with the log of {old} events that was kept")


def check_receipts(bundle: Bundle, manifest: Facts, tokens: list[str]) -> None:
    """Each audit receipt (the header kasbah-audit-receipt) that a user kept is about an event of this export."""
    if not tokens:
        return
    leaves = {leaf.hex() for leaf in leaves_given(bundle)}
    for token in tokens:
        try:
            body = token.split(".")[1]
            said = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            leaf, origin = said["leaf"], said["origin"]
        except (IndexError, ValueError, KeyError) as error:
            raise Failed("receipt_malformed", f"not an audit receipt: {token[:60]!r}") from error
        if origin != manifest["origin"]:
            raise Failed("receipt_foreign", f"the receipt is about the log {origin}")
        if leaf not in leaves:
            raise Failed("receipt_without_leaf", f"event {said.get('event')} was promised and is not in the log")


# --- The command line ---


def verify_bundle(arguments: argparse.Namespace) -> list[str]:
    """Check a whole export. Returns lines to print."""
    key = Key(arguments.key, types=(1,))
    bundle = Bundle(arguments.file)
    note = bundle.text("checkpoint")
    size, root = read_checkpoint(note, key)
    manifest = read_manifest(bundle, key)
    if manifest["size"] != size or not 0 <= manifest["start"] <= manifest["end"] <= size:
        raise Failed("manifest_changed", "the manifest and the checkpoint are about different trees")
    events = check_log(bundle, manifest, root)
    check_files(bundle, manifest, skip={"events.jsonl"})
    kept = open_text(arguments.previous) if arguments.previous else None
    check_previous(bundle, key, size, root, kept)
    check_receipts(bundle, manifest, [open_text(path).strip() for path in arguments.receipt])
    witnesses = check_witnesses(note, [Key(text, types=(4,)) for text in arguments.witness], arguments.witnesses)
    opened = check_content(bundle, manifest)
    count = manifest["end"] - manifest["start"]
    return [
        f"log        {key.name}",
        f"events     {count} ({manifest['start']} to {manifest['end']} of {size}); none changed, added or left out",
        *(f"           {number:>9} {kind}" for kind, number in sorted(events.types.items())),
        f"content    {opened} parts opened, each as it was committed to",
        f"witnesses  {witnesses} signed"
        if witnesses
        else "witnesses  UNWITNESSED: the log's own key alone vouches for it",
        "holds",
    ]


def verify_proof(arguments: argparse.Namespace) -> list[str]:
    """Check a `.tlog-proof` of one event (C2SP tlog-proof)."""
    key = Key(arguments.key, types=(1,))
    head, _, note = open_text(arguments.file).partition("\n\n")
    lines = head.split("\n")
    if lines[0] != "c2sp.org/tlog-proof@v1" or len(lines) < 2:
        raise Failed("proof_invalid", "not a tlog-proof")
    rest = lines[2:] if lines[1].startswith("extra ") else lines[1:]
    match = re.fullmatch("index (0|[1-9][0-9]*)", rest[0])
    if match is None:
        raise Failed("proof_invalid", "the proof has no index")
    size, root = read_checkpoint(note, key)
    leaf = leaf_hash(Path(arguments.event).read_bytes().rstrip(b"\n"))
    check_inclusion(leaf, int(match[1]), size, root, [base64.b64decode(line) for line in rest[1:]])
    return [f"event {match[1]} of {key.name}, a log of {size} events", "holds"]


def open_text(path: str) -> str:
    """A small file as text."""
    with Path(path).open(encoding="utf-8") as file:
        return file.read(MAX_SMALL)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="VERIFY.md says what is shown by it.")
    made.add_argument("file", help="the export (.zip), or a .tlog-proof with --event")
    made.add_argument("--key", required=True, help="the log's key, NAME+ID+KEY, which you have by another way")
    made.add_argument("--event", help="with a .tlog-proof: file with the event's exact bytes")
    made.add_argument("--previous", help="checkpoint that you kept from an earlier export")
    made.add_argument("--receipt", action="append", default=[], help="file with an audit receipt that a user kept")
    made.add_argument("--witness", action="append", default=[], help="key of a witness that you know")
    made.add_argument("--witnesses", type=int, default=0, help="how many of them must have signed (%(default)s)")
    return made


def main(argv: list[str] | None = None) -> int:
    """Run. Returns the exit status."""
    arguments = parser().parse_args(argv)
    try:
        lines = verify_proof(arguments) if arguments.event else verify_bundle(arguments)
    except Failed as failure:
        print(f"{failure.name}: {failure}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"cannot read {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except (zipfile.BadZipFile, json.JSONDecodeError, KeyError, ValueError, TypeError, EOFError) as error:
        print(f"bundle_unreadable: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
