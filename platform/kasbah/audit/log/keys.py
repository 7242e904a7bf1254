"""Which key signs a log.

Processes hold a ring: KASBAH_AUDIT_KEY and, while one follows another, KASBAH_AUDIT_KEY_PREVIOUS. Which of the two
signs is said by the log's row and not by the ring, so that web processes and housekeeping may be started with the new
ring one after another (kasbah.audit.log.rotation hands over).
"""

from __future__ import annotations

from dataclasses import dataclass

from inference_worker.contract.signing import Signer
from kasbah.audit.log import note
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.models import KeySuccession, Log
from kasbah.audit.log.note import ED25519, BadNote, Key, Note
from kasbah.audit.services.receipts import ring


@dataclass(frozen=True, slots=True)
class Held:
    """A log's key with its private half."""

    key: Key
    signer: Signer

    def sign(self, text: str) -> note.Signature:
        """Its signature of a note's text."""
        return note.sign(text, self.key, self.signer.sign_bytes)

    def note(self, text: str) -> Note:
        """The text, signed by it."""
        return Note(text, (self.sign(text),))


def held(log: Log) -> Held:
    """The key that signs a log now. Raises SignerRefuses where this process does not hold it."""
    mine, wanted = held_for(log.origin), key_of(log)
    if wanted is None and not log.size:
        return mine[0]
    for each in mine:
        if each.key == wanted:
            return each
    raise SignerRefuses(
        f"{log.origin}: this process does not have its key {wanted.vkey() if wanted else ''}. Give it as"
        " KASBAH_AUDIT_KEY, or as KASBAH_AUDIT_KEY_PREVIOUS beside the one that shall follow it, and start anew"
    )


def held_for(origin: str) -> list[Held]:
    """The ring as keys of one log; it begins with the first of them. Raises SignerRefuses for a name that none has."""
    try:
        return [Held(Key(origin, ED25519, each.public.public_bytes_raw()), each) for each in ring()]
    except BadNote as error:
        raise SignerRefuses(f"{origin}: {error}. The log's row was changed; run: manage.py auditlog check") from error


def key_of(log: Log) -> Key | None:
    """The key that signs a log now; None where that is not known: it was never signed, or by none of the ring.

    Raises SignerRefuses where the database no longer says which.
    """
    try:
        if log.key:
            return Key.parse(log.key)
        newest = log.checkpoints.order_by("-size").first()
        if newest is None:
            return None
        signed = Note.parse(newest.note).signatures[0].id  # from before the row said which key it is
    except BadNote as error:
        raise SignerRefuses(f"{log.origin}: {error}. Its row was changed; run: manage.py auditlog check") from error
    return next((each.key for each in held_for(log.origin) if each.key.id == signed), None)


def log_key(origin: str) -> Key:
    """The key that signs a log now, or with which it will begin. In a scope that sees the log. Raises SignerRefuses."""
    log = Log.objects.filter(origin=origin).first()
    return (key_of(log) if log else None) or held_for(origin)[0].key


def successions(log: Log) -> list[KeySuccession]:
    """How the log's key came to be what it is; what was before a key that was revoked counts no more."""
    rows = list(log.successions.order_by("created_at", "id"))
    revoked = [at for at, row in enumerate(rows) if not row.note]
    return rows[revoked[-1] + 1 :] if revoked else rows
