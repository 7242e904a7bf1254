"""The one folder with all data: `.kasbah/` in the repository, or KASBAH_HOME."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.local import secrets
from infra.local.problems import Problem

REPOSITORY = Path(__file__).resolve().parents[2]
MARK = "KASBAH_HOME"
MARK_TEXT = "This folder holds all data of a Kasbah installation. `make clean` removes it.\n"


@dataclass(frozen=True)
class Home:
    """Where things lie below the folder."""

    path: Path

    @property
    def logs(self) -> Path:
        """A file for each process."""
        return self.path / "logs"

    @property
    def models(self) -> Path:
        """Models by digest."""
        return self.path / "models"

    @property
    def audit(self) -> Path:
        """The audit log's tiles, and what its signer remembers."""
        return self.path / "audit"

    @property
    def run(self) -> Path:
        """Sockets, pid files and what the last run learnt."""
        return self.path / "run"

    @property
    def worker(self) -> Path:
        """The inference worker's own key and identity."""
        return self.path / "worker"

    @property
    def worker_secrets(self) -> Path:
        """What the worker is told that nobody else may read: its broker, and the token of its first start."""
        return self.path / "worker-secrets"

    @property
    def admin(self) -> Path:
        """What only set-up may read: the owner's database URL, the demo's key and password."""
        return self.path / "admin"

    def create(self) -> None:
        """Make the folder, or refuse one that holds something else. Raises Problem."""
        if self.path.exists() and not (self.path / MARK).exists() and any(self.path.iterdir()):
            raise Problem(
                f"{self.path} is not empty and not a folder of Kasbah's.\n"
                "Set KASBAH_HOME to a folder that is empty or does not exist."
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.path.chmod(0o700)  # whatever was made below it before
            secrets.write(self.path / MARK, MARK_TEXT)
            for folder in (self.logs, self.models, self.run, self.audit, self.worker):
                folder.mkdir(mode=0o700, exist_ok=True)
                folder.chmod(0o700)
        except OSError as error:
            raise Problem(
                f"{self.path} cannot be written: {error.strerror}.\nSet KASBAH_HOME to a folder of your own."
            ) from error

    def remove(self) -> bool:
        """Remove all data. False when there is none. Raises Problem while Kasbah runs, or for a foreign folder."""
        if not self.path.exists():
            return False
        if not (self.path / MARK).exists():
            raise Problem(f"{self.path} is not a folder of Kasbah's (it has no file {MARK}); nothing was removed.")
        with self.lock("remove its data"):
            _remove_short_folder(self.run / "pg-folder")
            shutil.rmtree(self.path)
        return True

    @contextlib.contextmanager
    def lock(self, purpose: str) -> Iterator[None]:
        """Hold the folder alone; the lock ends with the process, however it ends. Raises Problem naming the holder."""
        with (self.path / "lock").open("a+", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise Problem(
                    f"Kasbah already runs from {self.path} (pid {_holder(file.fileno()) or 'unknown'}), so this command"
                    f" cannot {purpose}.\n"
                    "End it with Ctrl-C in its window, or set KASBAH_HOME to another folder for a second one."
                ) from None
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield

    def running(self) -> int | None:
        """Pid of the process that holds the folder, if any."""
        try:
            with (self.path / "lock").open("r+", encoding="ascii") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _holder(file.fileno())
        except OSError:
            pass
        return None


def home() -> Home:
    """The folder that KASBAH_HOME names, else `.kasbah` in the repository."""
    chosen = os.environ.get("KASBAH_HOME", "")
    return Home((Path(chosen).expanduser() if chosen else REPOSITORY / ".kasbah").resolve())


def _holder(descriptor: int) -> int | None:
    """The pid that the holder wrote into the lock file."""
    text = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
    return int(text) if text.isdigit() else None


def _remove_short_folder(note: Path) -> None:
    """The socket's folder outside, where the home's path is too long for a socket."""
    with contextlib.suppress(OSError):
        folder = Path(note.read_text())
        if folder.name.startswith("kasbah-pg-") and stat.S_ISDIR(folder.lstat().st_mode):
            shutil.rmtree(folder)
