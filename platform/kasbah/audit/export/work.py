"""What an export has read so far, in a folder beside it, so that one that was cut off goes on.

Events lie in segments; a state file says which are complete, and for what. It is replaced as a whole, so whatever
happens there is a state that holds. What is read from here is checked against the signed tree like what comes out of
the database: nobody need trust the folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from kasbah.common.errors import Conflict

STATE, LOCK = "state.json", "lock"
ARCHIVE = "export.zip"


class Damaged(Conflict):
    """A segment is not what was written."""


class Work:
    """The folder of one export. Nobody else writes to it meanwhile. Raises Conflict when somebody does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise Conflict(f"Another export writes to {folder}; wait for it, or name another file.") from error
        self._state = self._read_state()

    @property
    def checkpoint(self) -> str:
        """Under which checkpoint the export was begun; "" when it was not."""
        return str(self._state.get("checkpoint", ""))

    @property
    def segments(self) -> int:
        """How many segments are complete."""
        return len(self._segments())

    @property
    def events(self) -> int:
        """How many events they hold."""
        return sum(segment["events"] for segment in self._segments())

    def begin(self, digest: str, checkpoint: str) -> bool:
        """Take up the work on the plan with this digest. False: what lay here was for another one, and is gone."""
        same = self._state.get("plan") == digest
        fresh = not self._state
        if not same:
            self.discard()
            self._write_state({"plan": digest, "checkpoint": checkpoint, "segments": []})
        return same or fresh

    def discard(self) -> None:
        """Forget what was read."""
        for path in self.folder.iterdir():
            if path.name != LOCK:
                path.unlink()
        self._state = {}

    def add(self, events: Iterable[bytes]) -> int:
        """Write the next segment. Answers how many events it has."""
        digest, count = hashlib.sha256(), 0
        path = self._path(len(self._segments()))
        with self.open(path) as file:
            for event in events:
                line = event + b"\n"
                digest.update(line)
                file.write(line)
                count += 1
            file.flush()
            os.fsync(file.fileno())
        segments = [*self._segments(), {"events": count, "sha256": digest.hexdigest()}]
        self._write_state({**self._state, "segments": segments})
        return count

    def read(self) -> Iterator[bytes]:
        """The events of all segments. Raises Damaged."""
        for number, segment in enumerate(self._segments()):
            if self._digest(number) != segment["sha256"]:
                self.discard()
                raise Damaged(f"{self._path(number)} was changed; it is gone now. Run the same command again.")
            with self._path(number).open("rb") as file:
                for line in file:
                    yield line[:-1]

    def archive(self) -> IO[bytes]:
        """The archive that is being put together, empty."""
        return self.open(self.folder / ARCHIVE)

    def drop_archive(self) -> None:
        """Remove what was put together: it may hold opened content, and takes room that others want."""
        (self.folder / ARCHIVE).unlink(missing_ok=True)

    def finish(self, target: Path) -> None:
        """Move the archive to where it was wanted, and remove the folder."""
        (self.folder / ARCHIVE).replace(target)
        self.remove()

    def remove(self) -> None:
        """Remove the folder, with all that was read."""
        shutil.rmtree(self.folder)

    def close(self) -> None:
        """Let others write."""
        os.close(self._lock)

    def open(self, path: Path) -> IO[bytes]:
        """An empty file that nobody else may read."""
        return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b")

    def _segments(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._state.get("segments", [])
        return found

    def _digest(self, number: int) -> str:
        with suppress(FileNotFoundError), self._path(number).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
        return ""

    def _path(self, number: int) -> Path:
        return self.folder / f"events.{number:06d}"

    def _read_state(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / STATE).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write_state(self, state: dict[str, Any]) -> None:
        new = self.folder / f"{STATE}.new"
        with self.open(new) as file:
            file.write(json.dumps(state).encode())
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.folder / STATE)
        self._state = state
