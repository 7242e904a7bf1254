"""A model version is its files: the manifest lists them, its digest names the version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from inference_worker.contract import canonical

CHUNK = 4 * 1024 * 1024


class FileEntry(msgspec.Struct, frozen=True):
    """One file: `path` relative with forward slashes, `sha256` in hex, `size` in bytes."""

    path: str
    sha256: str
    size: int


class ManifestMismatch(ValueError):
    """A file is missing, added, a link, or differs from the manifest; the message names it."""


def sha256_of(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Hex SHA-256 of a file; `progress` receives the number of bytes read since its last call."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest()


def files_of(folder: Path) -> list[Path]:
    """Every regular file below `folder`, sorted by relative path. Links are refused: they lead elsewhere."""
    files: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ManifestMismatch(f"{path.relative_to(folder)} is a link; copy the file itself into the folder")
        if path.is_file():
            files.append(path)
    return sorted(files, key=lambda path: path.relative_to(folder).as_posix())


def manifest_of(folder: Path, progress: Callable[[int], None] | None = None) -> list[FileEntry]:
    """Read and hash every file below `folder`."""
    return [
        FileEntry(
            path=path.relative_to(folder).as_posix(),
            sha256=sha256_of(path, progress),
            size=path.stat().st_size,
        )
        for path in files_of(folder)
    ]


def digest_of(manifest: Iterable[FileEntry]) -> str:
    """Hex SHA-256 over the canonical JSON of the entries sorted by path."""
    entries = [msgspec.to_builtins(entry) for entry in sorted(manifest, key=lambda entry: entry.path)]
    return hashlib.sha256(canonical.dumps(entries)).hexdigest()


def verify(folder: Path, manifest: Iterable[FileEntry], progress: Callable[[int], None] | None = None) -> str:
    """Check that `folder` holds exactly the files of `manifest`, byte for byte, and return their digest."""
    expected = {entry.path: entry for entry in manifest}
    found = {path.relative_to(folder).as_posix(): path for path in files_of(folder)}
    for missing in expected.keys() - found.keys():
        raise ManifestMismatch(f"{missing} is missing from {folder.name}")
    for added in found.keys() - expected.keys():
        raise ManifestMismatch(f"{added} is not in the manifest of {folder.name}")
    for name, entry in expected.items():
        if found[name].stat().st_size != entry.size or sha256_of(found[name], progress) != entry.sha256:
            raise ManifestMismatch(f"{name} differs from the manifest of {folder.name}")
    return digest_of(expected.values())
