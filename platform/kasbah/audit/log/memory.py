"""The signer's memory: what it signed last for each log, kept outside the database.

Whoever restores an old database and goes on would make the log forget; the signer does not, and refuses.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from django.conf import settings

from kasbah.audit.log.merkle import Frontier
from kasbah.audit.log.note import Checkpoint
from kasbah.audit.log.tiles import write_whole


class SignerRefuses(RuntimeError):
    """The tree is not a continuation of what was signed; the message says what is wrong and what to do."""


class Memory:
    """One small file for each log in `folder`. Use under `lock`: one signer at a time on a machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    def of_installation(cls) -> Memory:
        """The one in KASBAH_AUDIT_DIR."""
        return cls(Path(settings.AUDIT_DIR) / "memory")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Held while trees are compared, signed and remembered."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def last(self, origin: str) -> Checkpoint | None:
        """What was signed last for `origin`. Raises SignerRefuses when it cannot be read."""
        path = self._path(origin)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            found = Checkpoint.parse(kept["checkpoint"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise SignerRefuses(f"{origin}: the signer's memory {path.name} is damaged; restore it") from error
        if found.origin != origin:
            raise SignerRefuses(f"{origin}: the signer's memory {path.name} is about {found.origin}; restore it")
        return found

    def agree(self, origin: str, before: Frontier, after: Frontier, root_at: Callable[[int], bytes]) -> None:
        """Whether the tree `after`, grown from `before`, may be signed: it must begin with what was signed last.

        `root_at(size)` is the root of the tree's first `size` leaves. Raises SignerRefuses.
        """
        last = self.last(origin)
        if last is None:
            if before.size:
                raise SignerRefuses(
                    f"{origin}: the log has {before.size} events and the signer remembers none of them. Restore its"
                    " memory, or, once you know that the database is the right one, run: manage.py auditlog trust"
                )
            return
        if last.size > after.size:
            raise SignerRefuses(
                f"{origin}: {last.size} events were signed, the database has {after.size}: it is older than the log."
                " Restore the newest database"
            )
        if root_at(last.size) != last.root:
            raise SignerRefuses(
                f"{origin}: the first {last.size} events are not those that were signed: the database was changed."
                " Keep it for the inquiry and restore the right one"
            )

    def keep(self, checkpoint: Checkpoint) -> None:
        """Remember what is about to be signed; on disk when this returns."""
        kept = json.dumps({"checkpoint": checkpoint.text()})
        write_whole(self._path(checkpoint.origin), kept.encode())

    def _path(self, origin: str) -> Path:
        return self._folder / f"{hashlib.sha256(origin.encode()).hexdigest()[:32]}.json"
