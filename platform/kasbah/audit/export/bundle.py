"""Writing an export: a deterministic zip of a range of a log, complete in itself.

The same range under the same checkpoint gives the same bytes. What is written is checked on the way: an export that
would not verify is never finished.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from importlib import resources
from typing import IO

from inference_worker.contract import canonical
from kasbah.audit.export.verifier import joined
from kasbah.audit.export.verifier.archive import FORMAT
from kasbah.audit.export.verifier.tree import Tree, levels
from kasbah.audit.export.views import VIEWS, Header, Made
from kasbah.audit.log import note
from kasbah.audit.log.merkle import Node, leaf_hash
from kasbah.audit.log.note import Checkpoint, Key, Note, Signature, lines_of
from kasbah.audit.log.tiles import WIDTH, name, width_of
from kasbah.common.errors import Unavailable

Sign = Callable[[str], Signature]
EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's earliest time: the same for every file, so that nothing depends on the clock


class ExportBroken(Unavailable):
    """What the database holds is not what was signed."""


@dataclass(frozen=True, slots=True)
class Range:
    """Events `start` to `end` (exclusive) of the log that `checkpoint` signs."""

    start: int
    end: int
    checkpoint: Note

    @property
    def signed(self) -> Checkpoint:
        """What the checkpoint says."""
        return Checkpoint.parse(self.checkpoint.text)


@dataclass(frozen=True, slots=True)
class Source:
    """Where an export comes from: `events(start, end)` gives exact bytes in order, `tile(name)` a tile's."""

    events: Callable[[int, int], Iterable[bytes]]
    node: Node
    tile: Callable[[str], bytes]
    successions: Sequence[str] = ()  # notes by which the log's keys handed over, the oldest first


class Archive:
    """A zip whose bytes depend on its content alone; remembers size and digest of what it was given."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6)
        self.files: dict[str, dict[str, str | int]] = {}

    @contextmanager
    def stream(self, path: str) -> Iterator[Callable[[bytes], None]]:
        """Write one file piece by piece."""
        digest, size = hashlib.sha256(), 0
        with self._zip.open(_info(path), "w", force_zip64=True) as file:

            def write(data: bytes) -> None:
                nonlocal size
                digest.update(data)
                size += len(data)
                file.write(data)

            yield write
        self.files[path] = {"sha256": digest.hexdigest(), "size": size}

    def add(self, path: str, data: bytes) -> None:
        """Write one file."""
        with self.stream(path) as write:
            write(data)

    def close(self) -> None:
        """End the archive."""
        self._zip.close()


def write_bundle(
    file: IO[bytes],
    wanted: Range,
    source: Source,
    *,
    key: Key,
    private: Callable[[bytes], bytes],
    progress: Callable[[int], None],
) -> str:
    """Write the export and return the SHA-256 of its manifest. `progress` hears how many events are written.

    Raises ExportBroken, tiles.TileMissing.
    """
    with closing(Archive(file)) as archive:
        return _fill(archive, wanted, source, lambda text: note.sign(text, key, private), progress)


def _fill(archive: Archive, wanted: Range, source: Source, sign: Sign, progress: Callable[[int], None]) -> str:
    archive.add("checkpoint", str(wanted.checkpoint).encode())
    before, after = boundary = _boundary(wanted, source.node)
    archive.add("range.json", canonical.dumps({"before": lines_of(before), "after": lines_of(after)}))
    _write_events(archive, wanted, source.events(wanted.start, wanted.end), boundary, progress)
    for path in _tiles(wanted.signed.size):
        archive.add(path, source.tile(path))
    for number, handed_over in enumerate(source.successions):
        archive.add(f"keys/{number:04}.note", handed_over.encode())
    archive.add("VERIFY.md", resources.files("kasbah.audit.export").joinpath("VERIFY.md").read_bytes())
    archive.add("verify.py", joined.program().encode())
    manifest = canonical.dumps(
        {
            "format": FORMAT,
            "origin": wanted.signed.origin,
            "start": wanted.start,
            "end": wanted.end,
            "size": wanted.signed.size,
            "root": wanted.signed.root.hex(),
            "files": archive.files,
        }
    )
    digest = hashlib.sha256(manifest).hexdigest()
    text = f"{FORMAT}\n{wanted.signed.origin}\n{digest}\n"
    archive.add("MANIFEST.json", manifest)
    archive.add("MANIFEST.note", str(Note(text, (sign(text),))).encode())
    return digest


def _boundary(wanted: Range, node: Node) -> tuple[list[bytes], list[bytes]]:
    """Roots of the complete subtrees left and right of the range: with the events they give the root."""
    return (
        list(_subtrees(0, wanted.start, node)),
        list(_subtrees(wanted.end, wanted.signed.size, node)),
    )


def _subtrees(start: int, end: int, node: Node) -> Iterator[bytes]:
    for level in levels(start, end):
        yield node(level, start >> level)
        start += 1 << level


def _write_events(
    archive: Archive,
    wanted: Range,
    events: Iterable[bytes],
    boundary: tuple[list[bytes], list[bytes]],
    progress: Callable[[int], None],
) -> None:
    tree, number = Tree(), wanted.start
    before, after = boundary
    for level, digest in zip(levels(0, wanted.start), before, strict=True):
        tree.add(digest, level)
    with ExitStack() as spools:
        header = _header(wanted, lambda: spools.enter_context(tempfile.TemporaryFile()))
        views = [view(header) for view in VIEWS]
        with archive.stream("events.jsonl") as write:
            for data in events:
                tree.add(leaf_hash(data))
                write(data + b"\n")
                event = json.loads(data)
                for view in views:
                    view.add(number, event, data)
                number += 1
                progress(number - wanted.start)
        for level, digest in zip(levels(wanted.end, wanted.signed.size), after, strict=True):
            tree.add(digest, level)
        if number != wanted.end or tree.root() != wanted.signed.root:
            raise ExportBroken(
                f"The events of {wanted.signed.origin} are not those that were signed. Run: manage.py auditlog check"
            )
        for view in views:
            for made in view.finish():
                _copy(archive, made)


def _header(wanted: Range, spool: Callable[[], IO[bytes]]) -> Header:
    signed = wanted.signed
    return Header(
        origin=signed.origin,
        selection={"kind": "range", "start": wanted.start, "end": wanted.end},
        events=wanted.end - wanted.start,
        size=signed.size,
        root=signed.root.hex(),
        spool=spool,
    )


def _copy(archive: Archive, made: Made) -> None:
    made.file.seek(0)
    with archive.stream(made.path) as write:
        while block := made.file.read(1 << 20):
            write(block)


def _tiles(size: int) -> Iterator[str]:
    """Names of all tiles of a tree."""
    level = 0
    while size >> (8 * level):
        for index in range(((size >> (8 * level)) + WIDTH - 1) // WIDTH):
            yield name(level, index, width_of(level, index, size))
        level += 1


def _info(path: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path, EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    return info
