"""What the database keeps of signatures, read as what it is: anybody with its owner's credentials may have altered it.

Checkpoints, witnesses' lines and changes of keys are checked whenever they are given away, and all of them by
`auditlog check`. What does not hold has one name, log_altered, and says which row it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kasbah.audit.log import keys
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.models import Cosignature, KeySuccession, Log, SignedCheckpoint
from kasbah.audit.log.note import BadNote, Checkpoint, Key, Note
from kasbah.audit.log.rotation import statement
from kasbah.common.errors import Conflict


class LogAltered(Conflict):
    """A row of the log is not what was signed: somebody wrote past the platform. It is given to nobody."""

    code = "log_altered"

    def __init__(self, finding: str) -> None:
        self.finding = finding
        super().__init__(f"{finding}: it was altered in the database. Have an operator run: manage.py auditlog check")


def read_checkpoint(row: SignedCheckpoint) -> Note:
    """A checkpoint's note, once it says what its row says and one of the log's keys signed it. Raises LogAltered."""
    what = f"{row.log.origin}: the checkpoint of {row.size} events"
    try:
        note = Note.parse(row.note)
        if Checkpoint.parse(note.text) != Checkpoint(row.log.origin, row.size, bytes(row.root)):
            raise LogAltered(f"{what} is about another tree")
        if not (note.verified(_ring(row.log)) or note.verified(_former(row.log))):
            raise LogAltered(f"{what} is not signed by this log's key")
    except BadNote as error:
        raise LogAltered(f"{what}: {error}") from error
    return note


def read_cosignatures(row: SignedCheckpoint, witnesses: Iterable[Key]) -> str:
    """The lines of the witnesses of a checkpoint, by their names.

    Raises LogAltered for a line that is none or of another name, and, of those whose keys are in `witnesses`, for one
    that does not hold.
    """
    known, lines = list(witnesses), ""
    for kept in Cosignature.objects.filter(checkpoint=row).order_by("witness"):
        what = f"{row.log.origin}: the line of {kept.witness} on the checkpoint of {row.size} events"
        try:
            found = Note.parse(row.note + kept.line).signatures
            if kept.line != found[-1].line() or found[-1].name != kept.witness or kept.witness == row.log.origin:
                raise LogAltered(f"{what} is not one line of this witness")
            Note.parse(row.note + kept.line).verified(known)
        except BadNote as error:
            raise LogAltered(f"{what}: {error}") from error
        lines += kept.line
    return lines


def read_successions(log: Log) -> list[str]:
    """The notes by which the log's keys handed over, the oldest first. Raises LogAltered."""
    return [_succession(log, row) for row in keys.successions(log)]


def findings(log: Log, row: SignedCheckpoint, witnesses: Iterable[Key]) -> Iterator[str]:
    """What does not hold of a checkpoint and its witnesses' lines."""
    row.log = log
    try:
        read_checkpoint(row)
        read_cosignatures(row, witnesses)
    except LogAltered as error:
        yield error.finding


def _succession(log: Log, row: KeySuccession) -> str:
    what = f"{log.origin}: the change of keys after {row.size} events"
    try:
        note, old, new = Note.parse(row.note), Key.parse(row.old), Key.parse(row.new)
        said = Checkpoint.parse("\n".join(note.text.split("\n")[1:4]) + "\n")
        if note.text != statement(said, old, new) or (said.origin, said.size) != (log.origin, row.size):
            raise LogAltered(f"{what} says something else than its row")
        if set(note.verified([old, new])) != {old, new}:
            raise LogAltered(f"{what} is not signed by both keys")
    except BadNote as error:
        raise LogAltered(f"{what}: {error}") from error
    return row.note


def _ring(log: Log) -> list[Key]:
    """The keys that this process has."""
    try:
        return [held.key for held in keys.held_for(log.origin)]
    except SignerRefuses as error:
        raise LogAltered(str(error)) from error


def _former(log: Log) -> list[Key]:
    """The keys that the log had before, as it says, those that were revoked too: they signed in their time."""
    named = [vkey for row in log.successions.all() for vkey in (row.old, row.new) if vkey]
    return [Key.parse(vkey) for vkey in dict.fromkeys(named)]
