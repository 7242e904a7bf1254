"""Where versions lie: `<KASBAH_MODELS_DIR>/<digest>/`, complete or not there at all.

An import copies into a hidden folder beside it and moves that into place in one step. An import that was interrupted
(Ctrl-C, a crash) goes on from the files it had finished; one that failed leaves nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings

from inference_worker.contract import manifest
from inference_worker.contract.manifest import FileEntry, ManifestMismatch
from kasbah.common.errors import Conflict, Invalid, Unavailable
from kasbah.registry.scan import refusal, survey
from kasbah.registry.topology import Topology, topology_of

LOCK = ".import.lock"
SPARE = 64 * 1024 * 1024  # bytes that stay free on the disk


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a step ("hash", "copy" or "verify") is, in bytes."""

    step: str
    done: int
    total: int


Watcher = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A model folder that was looked at, hashed and put into its place. `size` in bytes."""

    digest: str
    files: tuple[FileEntry, ...]
    size: int
    topology: Topology


def folder_of(digest: str) -> Path:
    """Where the version of this digest lies."""
    return Path(settings.MODELS_DIR) / digest


def admit(folder: Path, progress: Watcher | None = None) -> Admitted:
    """Look at `folder`, hash it, and copy it to its place unless it is there already; the folder itself stays.

    Raises Invalid for what may not come in, Conflict when another import runs or the stored copy was changed,
    Unavailable when the disk is full or cannot be read.
    """
    try:
        topology = _look(folder)
        counter = _Counter("hash", sum(path.stat().st_size for path in manifest.files_of(folder)), progress)
        files = tuple(manifest.manifest_of(folder, counter.add))
        digest = manifest.digest_of(files)
        size = sum(entry.size for entry in files)
        place = folder_of(digest)
        if folder.resolve() != place.resolve():
            with _locked(place.parent):
                topology = _keep(folder, place, files, progress)
    except ManifestMismatch as error:
        raise Invalid(f"{error}.", param="folder", code="model_refused") from error
    except OSError as error:
        raise Unavailable(f"{error.filename or folder}: {error.strerror}. Nothing was imported.") from error
    return Admitted(digest, files, size, topology)


def _look(folder: Path) -> Topology:
    """What the model is, when everything in `folder` may come in. Raises Invalid."""
    scanned, findings = survey(folder)
    try:
        topology = topology_of(scanned) if scanned is not None else {}
    except Invalid as error:
        findings.append(error.message.removesuffix("."))
    if findings:
        raise refusal(findings)
    return topology


def _keep(folder: Path, place: Path, files: tuple[FileEntry, ...], progress: Watcher | None) -> Topology:
    """Bring the files to `place`; answers what the kept bytes are."""
    if place.exists():
        counter = _Counter("verify", sum(entry.size for entry in files), progress)
        try:
            manifest.verify(place, files, counter.add)
        except ManifestMismatch as error:
            raise Conflict(f"The stored copy was changed: {error}. Move {place} away and import again.") from error
        return _look(place)
    staging = place.with_name(f".incoming-{place.name}")
    try:
        topology = _stage(folder, staging, files, progress)
    except Exception:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    staging.rename(place)
    _sync(place.parent)
    return topology


def _stage(folder: Path, staging: Path, files: tuple[FileEntry, ...], progress: Watcher | None) -> Topology:
    """Copy what is missing, then check that exactly the manifest's files are there and may come in."""
    staging.mkdir(exist_ok=True)
    missing = [entry for entry in files if not _is_there(staging / entry.path, entry)]
    needed = sum(entry.size for entry in missing)
    if (free := shutil.disk_usage(staging).free) < needed + SPARE:
        raise Unavailable(
            f"The model needs {needed / 1e9:.1f} GB more on the disk of {staging.parent}, where {free / 1e9:.1f} GB "
            "are free. Make room, or set KASBAH_MODELS_DIR to another disk.",
            code="no_space",
        )
    counter = _Counter("copy", needed, progress)
    for entry in missing:
        _copy(folder / entry.path, staging / entry.path, entry, counter)
    expected = {entry.path for entry in files}
    for stray in manifest.files_of(staging):
        if stray.relative_to(staging).as_posix() not in expected:
            stray.unlink()
    for inner in (staging, *staging.rglob("*")):
        if inner.is_dir():
            inner.chmod(0o755)  # workers of another account read models, whatever the umask
            _sync(inner)
    # The source may have changed since it was looked at; what counts is what is kept.
    return _look(staging)


def _is_there(path: Path, entry: FileEntry) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != entry.size:
        return False
    return manifest.sha256_of(path) == entry.sha256


def _copy(source: Path, target: Path, entry: FileEntry, counter: _Counter) -> None:
    """Copy and hash in one pass; the bytes on disk are those of the manifest or the file is not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    digest = hashlib.sha256()
    with source.open("rb") as reader, part.open("wb") as writer:
        while chunk := reader.read(manifest.CHUNK):
            digest.update(chunk)
            writer.write(chunk)
            counter.add(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())
    if digest.hexdigest() != entry.sha256:
        raise ManifestMismatch(f"{entry.path} changed while it was copied; import again when nothing writes to it")
    part.chmod(0o444)
    part.rename(target)


def _sync(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """One import at a time. The lock goes with the process that holds it, however it ends."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / LOCK).open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict("Another import into this model folder is running; try again when it has ended.") from error
        yield


class _Counter:
    """Adds up bytes and tells the watcher."""

    def __init__(self, step: str, total: int, watcher: Watcher | None) -> None:
        self._step, self._total, self._watcher, self._done = step, total, watcher, 0

    def add(self, count: int) -> None:
        """`count` more bytes are done."""
        self._done += count
        if self._watcher is not None:
            self._watcher(Progress(self._step, self._done, self._total))
