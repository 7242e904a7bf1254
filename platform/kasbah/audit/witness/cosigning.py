"""What a witness does with a checkpoint: it compares it with the last one that it cosigned, and remembers it first."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kasbah.audit.log import note
from kasbah.audit.log.merkle import EMPTY, BadProof, check_consistency
from kasbah.audit.log.note import COSIGNATURE, BadNote, Checkpoint, Key, Note, lines_of
from kasbah.audit.log.tiles import write_whole

LONGEST_PROOF = 63  # hashes
SIZE_TYPE = "text/x.tlog.size"


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP status, and a body: cosignature lines, the size that is known, or why not."""

    status: int
    body: str
    kind: str = "text/plain; charset=utf-8"


def request(old: int, proof: tuple[bytes, ...], checkpoint: str) -> str:
    """The body of add-checkpoint."""
    return "\n".join([f"old {old}", *lines_of(proof)]) + "\n\n" + checkpoint


class StateDamaged(ValueError):
    """What the witness has seen of a log cannot be read. It signs nothing for that log until its keeper has looked."""


class Witness:
    """One witness with one key. `logs` are the keys of those that it watches, by origin:
    several where one has followed another."""

    def __init__(self, name: str, private: Ed25519PrivateKey, logs: Mapping[str, Sequence[Key]], folder: Path) -> None:
        self._private = private
        self._logs = dict(logs)
        self._folder = folder
        self.key = Key(name, COSIGNATURE, private.public_key().public_bytes_raw())

    def add_checkpoint(self, text: str) -> Answer:
        """Answer one request of tlog-witness, section add-checkpoint. Raises StateDamaged, OSError."""
        try:
            old, proof, signed = _parsed(text)
            said = Checkpoint.parse(signed.text)
        except BadNote as error:
            return Answer(400, f"{error}\n")
        log = self._logs.get(said.origin, ())
        if not log:
            return Answer(404, f"this witness does not watch {said.origin}\n")
        try:
            if not signed.verified(log):
                return Answer(403, "the log did not sign it\n")
        except BadNote as error:
            return Answer(403, f"{error}\n")
        if old > said.size:
            return Answer(400, "the old size is larger than the checkpoint's\n")
        return self._compared(old, proof, signed, said)

    def _compared(self, old: int, proof: list[bytes], signed: Note, said: Checkpoint) -> Answer:
        """Compare and remember in one step, so that two requests at once cannot make it forget."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            last = self._last(said.origin)
            if old != last.size:
                return Answer(409, f"{last.size}\n", SIZE_TYPE)
            if old == 0 and proof:
                return Answer(422, "a proof from the empty tree is empty\n")
            try:
                check_consistency(last.size, last.root, said.size, said.root, proof)
            except BadProof as error:
                return Answer(422, f"{error}\n")
            if said.size == 0 and said.root != EMPTY:
                return Answer(422, "the empty tree has another root\n")
            write_whole(self._path(said.origin), said.text().encode())
        moment = int(time.time())
        return Answer(200, note.sign(signed.text, self.key, self._private.sign, time=moment).line())

    def _last(self, origin: str) -> Checkpoint:
        path = self._path(origin)
        try:
            found = Checkpoint.parse(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return Checkpoint(origin, 0, EMPTY)
        except ValueError as error:  # BadNote, not UTF-8
            raise StateDamaged(f"{path} does not hold what was seen of {origin}; put its copy back") from error
        if found.origin != origin:
            raise StateDamaged(f"{path} is about {found.origin} and not about {origin}; put its copy back")
        return found

    def _path(self, origin: str) -> Path:
        return self._folder / hashlib.sha256(origin.encode()).hexdigest()[:32]


def _parsed(text: str) -> tuple[int, list[bytes], Note]:
    head, separator, rest = text.partition("\n\n")
    first, *hashes = head.split("\n")
    match = re.fullmatch("old (0|[1-9][0-9]{0,18})", first, re.ASCII)
    if match is None or not separator or len(hashes) > LONGEST_PROOF:
        raise BadNote("a request has the old size, at most 63 hashes, an empty line and a checkpoint")
    try:
        proof = [base64.b64decode(one, validate=True) for one in hashes]
    except ValueError as error:
        raise BadNote("a hash of the proof is not base64") from error
    return int(match[1]), proof, Note.parse(rest)
