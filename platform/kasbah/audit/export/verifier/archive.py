"""The archive's files, and the manifest that names them."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import IO

from kasbah.audit.export.verifier.documents import read_object
from kasbah.audit.export.verifier.failure import Facts, Failed
from kasbah.audit.export.verifier.notes import signed_by
from kasbah.audit.export.verifier.succession import BROKEN, LogKeys
from kasbah.audit.export.verifier.zipreader import PIECE, Entry, Unpacked, read_directory

FORMAT = "kasbah-audit-export@v1"
SELECTIONS = ("range", "person", "model", "request")
MAX_SMALL = 64 << 20  # bytes of a file that is read whole
MAX_TEXT = 1 << 20  # of a note, a proof, or what the caller gives
MAX_LINE = 65_535  # of a line, its end not counted
MAX_SUCCESSIONS = 1_000
MANIFEST = {
    "format": str, "origin": str, "selection": dict, "start": int, "end": int, "events": int, "opened": list,
    "size": int, "root": str, "files": dict,
}  # fmt: skip


class Bundle:
    """The export's files, read with care: an archive from elsewhere may be made to do harm."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.digests: dict[str, str] = {}
        self.file = open_regular(path)
        try:
            self.infos: dict[str, Entry] = read_directory(self.file, os.fstat(self.file.fileno()).st_size)
        except BaseException:
            self.file.close()
            raise

    def close(self) -> None:
        """Nothing more is read of it."""
        self.file.close()

    def open(self, name: str) -> IO[bytes]:
        """A file as a stream."""
        if name not in self.infos:
            raise Failed("file_missing", f"{name} is not in the export")
        return io.BufferedReader(Unpacked(self.file, self.infos[name]), PIECE)

    def read(self, name: str, most: int = MAX_SMALL) -> bytes:
        """A small file, whole."""
        if name in self.infos and self.infos[name].size > most:
            raise Failed("zip_unsafe", f"{name!r} is larger than such a file is")
        with self.open(name) as file:
            return file.read(most + 1)

    def lines(self, name: str) -> Iterator[bytes]:
        """The lines of a file, their ends included; one that is too long comes cut off."""
        with self.open(name) as file:
            while line := file.readline(MAX_LINE + 1):
                yield line

    def documents(self, name: str, fields: Mapping[str, type]) -> Iterator[Facts]:
        """The objects of a file that has one in each line."""
        for number, line in enumerate(self.lines(name), 1):
            yield read_object(line, f"{name}, line {number}", fields)

    def digest(self, name: str) -> str:
        """SHA-256 of a file, in hex; read once, whoever asks."""
        if name not in self.digests:
            digest = hashlib.sha256()
            with self.open(name) as file:
                while block := file.read(1 << 20):
                    digest.update(block)
            self.digests[name] = digest.hexdigest()
        return self.digests[name]

    def large(self, least: int) -> list[str]:
        """Names of the files of at least so many bytes."""
        return [name for name, info in self.infos.items() if info.size >= least]

    def text(self, name: str) -> str:
        """A note or a proof."""
        try:
            return self.read(name, MAX_TEXT).decode()
        except UnicodeDecodeError as error:
            raise Failed("document_malformed", f"{name} is not UTF-8") from error


def open_regular(path: str) -> IO[bytes]:
    """A file; nothing that never ends, or waits for somebody. Raises OSError, Failed."""
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise Failed("bundle_unreadable", f"{path} is not a file")
    return Path(path).open("rb")


def digest_apart(path: str, name: str) -> str:
    """`Bundle.digest` in another process. "" when it cannot be read: whoever asks next finds out why."""
    try:
        with closing(Bundle(path)) as bundle:
            return bundle.digest(name)
    except (Failed, OSError):
        return ""


def read_successions(bundle: Bundle) -> list[str]:
    """The notes by which the log's keys handed over, the oldest first."""
    names = sorted(name for name in bundle.infos if name.startswith("keys/"))
    if len(names) > MAX_SUCCESSIONS:
        raise Failed("zip_unsafe", f"the log's key is said to have changed {len(names)} times")
    return [bundle.text(name) for name in names]


def read_manifest(bundle: Bundle, keys: LogKeys) -> Facts:
    """The manifest, which the newest of the log's keys signed, and whose digests every file has."""
    data = bundle.read("MANIFEST.json")
    text, found = signed_by(bundle.text("MANIFEST.note"), keys.keys, "MANIFEST.note")
    if not found:
        raise Failed("unknown_key", f"MANIFEST.note: not signed by the key that was given ({keys.name})")
    if keys.keys[-1] not in found:
        raise Failed(BROKEN, "MANIFEST.note: signed by a key that another has followed")
    if text != f"{FORMAT}\n{keys.name}\n{hashlib.sha256(data).hexdigest()}\n":
        raise Failed("manifest_changed", "MANIFEST.json is not the one that was signed")
    manifest = read_object(data, "MANIFEST.json", MANIFEST)
    if manifest["format"] != FORMAT or manifest["origin"] != keys.name:
        raise Failed("manifest_changed", "the manifest is of another format or another log")
    _check_shape(manifest)
    extra = set(bundle.infos) - set(manifest["files"]) - {"MANIFEST.json", "MANIFEST.note"}
    if extra:
        raise Failed("file_unknown", f"{sorted(extra)[0]} is not in the manifest")
    return manifest


def _check_shape(manifest: Facts) -> None:
    selection, files = manifest["selection"], manifest["files"].values()
    texts = [selection.get("kind"), *([] if selection.get("kind") == "range" else [selection.get("by")])]
    texts += [said.get("sha256") if isinstance(said, dict) else None for said in files] + manifest["opened"]
    if not all(isinstance(text, str) for text in texts) or selection["kind"] not in SELECTIONS:
        raise Failed("document_malformed", "MANIFEST.json: selection, opened or files is not what it must be")


def check_files(bundle: Bundle, manifest: Facts, skip: set[str]) -> None:
    """Every file but `skip` is the one that the manifest names."""
    for name, said in manifest["files"].items():
        if name not in skip and bundle.digest(name) != said["sha256"]:
            raise Failed("file_changed", f"{name} is not the file that was signed")
