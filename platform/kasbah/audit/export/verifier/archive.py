"""The archive, and the manifest that names its files."""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import IO

from kasbah.audit.export.verifier.failure import Facts, Failed
from kasbah.audit.export.verifier.notes import signed_by
from kasbah.audit.export.verifier.succession import BROKEN, LogKeys

FORMAT = "kasbah-audit-export@v1"
MAX_FILE = 64 << 30  # bytes of one file, unpacked
MAX_SMALL = 64 << 20  # of a file that is read whole
RATIO = 1000  # by which a file may at most be packed; an event log packs about tenfold
MAX_FILES = 200_000


class Bundle:
    """The export's files, read with care: an archive from elsewhere may be made to do harm."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self.zip = zipfile.ZipFile(path)
            infos = self.zip.infolist()
        except (OSError, zipfile.BadZipFile) as error:
            raise Failed("bundle_unreadable", f"{path}: {error}") from error
        if len(infos) > MAX_FILES:
            raise Failed("zip_unsafe", f"it has {len(infos)} files")
        self.infos: dict[str, zipfile.ZipInfo] = {}
        self.digests: dict[str, str] = {}
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
        return [name for name, info in self.infos.items() if info.file_size >= least]

    def text(self, name: str) -> str:
        """A small file as text."""
        try:
            return self.read(name).decode()
        except UnicodeDecodeError as error:
            raise Failed("bundle_unreadable", f"{name} is not UTF-8") from error


def digest_apart(path: str, name: str) -> str:
    """`Bundle.digest` in another process. "" when it cannot be read: whoever asks next finds out why."""
    try:
        return Bundle(path).digest(name)
    except (Failed, zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError):
        return ""


def read_successions(bundle: Bundle) -> list[str]:
    """The notes by which the log's keys handed over, the oldest first."""
    return [bundle.text(name) for name in sorted(bundle.infos) if name.startswith("keys/")]


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
    manifest: Facts = json.loads(data)
    if manifest.get("format") != FORMAT or manifest.get("origin") != keys.name:
        raise Failed("manifest_changed", "the manifest is of another format or another log")
    extra = set(bundle.infos) - set(manifest["files"]) - {"MANIFEST.json", "MANIFEST.note"}
    if extra:
        raise Failed("file_unknown", f"{sorted(extra)[0]} is not in the manifest")
    return manifest


def check_files(bundle: Bundle, manifest: Facts, skip: set[str]) -> None:
    """Every file but `skip` is the one that the manifest names."""
    for name, said in manifest["files"].items():
        if name not in skip and bundle.digest(name) != said["sha256"]:
            raise Failed("file_changed", f"{name} is not the file that was signed")


def open_text(path: str) -> str:
    """A small file as text."""
    with Path(path).open(encoding="utf-8") as file:
        return file.read(MAX_SMALL)
