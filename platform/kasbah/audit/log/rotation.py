"""How a log's key hands over to the next.

Both keys sign a note about it: by it, who trusts the old key can come to trust the new one, and who has the new one
alone may still believe what the old one signed. The note says of how many events the old key signed last, and for
which root; from there on the new key signs.
"""

from __future__ import annotations

import base64
import hashlib

from django.db import connection
from django.db.models import Q

from kasbah.audit.log import keys, sequencer
from kasbah.audit.log.memory import Memory, SignerRefuses
from kasbah.audit.log.models import KeySuccession, Log
from kasbah.audit.log.note import Checkpoint, Key, Note
from kasbah.audit.services.events import ActorRef, Event, EventType, Resource
from kasbah.audit.services.intake import record
from kasbah.common import rls

SUCCESSION = "kasbah-key-succession@v1"


def hand_over(actor: ActorRef, *, revoked: bool = False) -> list[KeySuccession]:
    """Let KASBAH_AUDIT_KEY sign every log from its next event on; on record in each.

    The key before it is to be had as KASBAH_AUDIT_KEY_PREVIOUS, for it signs too; unless it is `revoked`, and then
    nothing leads from it to the new one. All logs or none. Raises SignerRefuses.
    """
    memory = Memory(sequencer.folder() / "memory")
    with memory.lock(), rls.platform_scope():
        with connection.cursor() as cursor:
            cursor.execute(sequencer.WAIT)
        behind = [log for log in Log.objects.order_by("id") if keys.key_of(log) != keys.held_for(log.origin)[0].key]
        return [_hand_over(log, memory, actor, revoked=revoked) for log in behind]


def statement(said: Checkpoint, old: Key, new: Key) -> str:
    """The text that both keys sign."""
    return "\n".join([SUCCESSION, said.text().rstrip("\n"), old.vkey(), new.vkey()]) + "\n"


def _hand_over(log: Log, memory: Memory, actor: ActorRef, *, revoked: bool) -> KeySuccession:
    said = Checkpoint(log.origin, log.size, sequencer.frontier_of(log).root())
    if memory.last(log.origin) != said:
        raise SignerRefuses(f"{log.origin}: the signer remembers another tree. Run: manage.py auditlog check")
    new, old, signed = keys.held_for(log.origin)[0], keys.key_of(log), ""
    if log.successions.filter(Q(new=new.key.vkey()) | Q(old=new.key.vkey())).exists():
        raise SignerRefuses(f"{log.origin}: KASBAH_AUDIT_KEY is a key that it had before. Make a new one")
    if not revoked:
        before = keys.held(log)
        text = statement(said, before.key, new.key)
        signed = str(Note(text, (before.sign(text), new.sign(text))))
    row = KeySuccession.objects.create(
        log=log,
        tenant_id=log.tenant_id,
        size=log.size,
        old=old.vkey() if old else "",
        new=new.key.vkey(),
        note=signed,
    )
    Log.objects.filter(pk=log.pk).update(key=row.new)
    record(
        Event(
            type=EventType.LOG_KEY_ROTATED,
            tenant_id=log.tenant_id,
            actor=actor,
            resource=Resource("log", log.origin, hashlib.sha256(signed.encode()).hexdigest() if signed else ""),
            reason="revoked" if revoked else "",
            details={
                "size": row.size,
                "old_key": old.id.hex() if old else "",
                "new_key": new.key.id.hex(),
                "new_public_key": base64.b64encode(new.key.public).decode(),
            },
        )
    )
    return row
