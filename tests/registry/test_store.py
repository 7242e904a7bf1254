"""Import: complete and in its place, or not there at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference_worker.contract import manifest
from inference_worker.contract.manifest import digest_of, manifest_of, verify
from kasbah.common.errors import Conflict, Invalid, Unavailable
from kasbah.registry import store
from kasbah.registry.store import LOCK, Progress, admit, folder_of

from .folders import model


@pytest.fixture
def models(tmp_path: Path, settings: Any) -> Path:
    """The model folder, which does not exist yet."""
    settings.MODELS_DIR = str(tmp_path / "models")
    return tmp_path / "models"


def kept(models: Path) -> set[str]:
    """What lies in the model folder, besides the lock."""
    return {path.name for path in models.iterdir()} - {LOCK} if models.exists() else set()


def test_a_model_is_kept_under_the_digest_of_its_files(tmp_path: Path, models: Path) -> None:
    source = model(tmp_path / "source")
    (source / "more").mkdir()
    (source / "more" / "notes.txt").write_text("below")
    admitted = admit(source)
    place = folder_of(admitted.digest)
    assert kept(models) == {admitted.digest}
    assert admitted.digest == digest_of(manifest_of(source)) == verify(place, admitted.files)
    assert admitted.size == sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    assert not (place / "model.safetensors").stat().st_mode & 0o222, "nobody writes to what is kept"
    assert (source / "model.safetensors").exists()


def test_progress_counts_each_step_to_its_end(tmp_path: Path, models: Path) -> None:
    seen: list[Progress] = []
    admitted = admit(model(tmp_path / "source"), seen.append)
    for step in ("hash", "copy"):
        done = [progress.done for progress in seen if progress.step == step]
        assert done == sorted(done)
        assert done[-1] == admitted.size
    assert {progress.total for progress in seen} == {admitted.size}


def test_again_changes_nothing_and_a_folder_in_its_place_is_not_copied(tmp_path: Path, models: Path) -> None:
    first = admit(model(tmp_path / "source"))
    before = (folder_of(first.digest) / "model.safetensors").stat()
    steps: list[Progress] = []
    assert admit(tmp_path / "source", steps.append).digest == first.digest
    assert {progress.step for progress in steps} == {"hash", "verify"}
    assert admit(folder_of(first.digest)).digest == first.digest
    assert (folder_of(first.digest) / "model.safetensors").stat().st_ino == before.st_ino


def test_a_stored_copy_that_was_changed_is_reported_not_used(tmp_path: Path, models: Path) -> None:
    first = admit(model(tmp_path / "source"))
    spoiled = folder_of(first.digest) / "tokenizer.json"
    spoiled.chmod(0o644)
    spoiled.write_text("{}")
    with pytest.raises(Conflict, match=r"The stored copy was changed: tokenizer.json differs"):
        admit(tmp_path / "source")


def test_a_hostile_folder_leaves_nothing(tmp_path: Path, models: Path) -> None:
    source = model(tmp_path / "source")
    (source / "evil.py").write_text("x")
    with pytest.raises(Invalid, match=r"evil.py is code"):
        admit(source)
    assert kept(models) == set()


def test_a_file_that_changes_meanwhile_leaves_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model(tmp_path / "source")
    real = manifest.manifest_of

    def hash_then_change(folder: Path, progress: Any) -> Any:
        found = real(folder, progress)
        (source / "tokenizer.json").write_text('{"other": 1}')
        return found

    monkeypatch.setattr(manifest, "manifest_of", hash_then_change)
    with pytest.raises(Invalid, match=r"tokenizer.json changed while it was copied"):
        admit(source)
    assert kept(models) == set()


def test_what_is_kept_is_looked_at_once_more(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is harmless when it is looked at and hostile when it is hashed must not come in."""
    source = model(tmp_path / "source")
    real = manifest.manifest_of

    def become_hostile(folder: Path, progress: Any) -> Any:
        (source / "evil.py").write_text("x")
        return real(folder, progress)

    monkeypatch.setattr(manifest, "manifest_of", become_hostile)
    with pytest.raises(Invalid, match=r"evil.py is code"):
        admit(source)
    assert kept(models) == set()


def test_a_full_disk_is_said_before_anything_is_copied(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model(tmp_path / "source")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 100, 0))  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match="KASBAH_MODELS_DIR") as caught:
        admit(source)
    assert caught.value.code == "no_space"
    assert kept(models) == set()


def test_a_disk_that_fills_meanwhile_leaves_nothing(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model(tmp_path / "source")
    real, synced = os.fsync, []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unavailable, match=r"No space left on device\. Nothing was imported"):
        admit(source)
    assert kept(models) == set()


def test_one_import_at_a_time(tmp_path: Path, models: Path) -> None:
    source = model(tmp_path / "source")
    models.mkdir()
    with (models / LOCK).open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Conflict, match="Another import"):
            admit(source)
    assert kept(models) == set()
    assert admit(source).digest in kept(models)


INTERRUPTED = """
import os, sys, signal
import django
django.setup()
from pathlib import Path
from kasbah.registry import store

copied = []
real = store._copy
def copy(source, target, entry, counter):
    if len(copied) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target, entry, counter)
    copied.append(target)
store._copy = copy
store.admit(Path(sys.argv[1]))
"""


def test_an_import_that_was_killed_goes_on_and_never_shows_a_half(
    tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model(tmp_path / "source")
    child = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(source)],
        env={
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "kasbah.config.settings",
            "KASBAH_MODELS_DIR": str(models),
            "PYTHONPATH": os.pathsep.join(sys.path),
        },
        timeout=60,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL
    digest = digest_of(manifest_of(source))
    assert kept(models) == {f".incoming-{digest}"}
    finished = {path.name: path.stat().st_ino for path in (models / f".incoming-{digest}").iterdir()}
    assert len(finished) == 2
    (models / f".incoming-{digest}" / "stray.txt.part").write_text("half")

    copied: list[str] = []
    real = store._copy
    monkeypatch.setattr(store, "_copy", lambda *args: (copied.append(args[2].path), real(*args)))
    assert admit(source).digest == digest
    assert kept(models) == {digest}
    assert not set(copied) & set(finished), "what was finished before is not copied again"
    place = folder_of(digest)
    assert {name: (place / name).stat().st_ino for name in finished} == finished
    assert verify(place, manifest_of(source)) == digest
