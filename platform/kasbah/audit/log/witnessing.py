"""Asking witnesses to cosign (C2SP tlog-witness), over HTTP or by a file that somebody carries.

A witness that is away delays nothing: its cosignature is missing, and an export says so.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
from django.conf import settings

from kasbah.audit.log import merkle, sequencer
from kasbah.audit.log.models import Cosignature, Log, SignedCheckpoint
from kasbah.audit.log.note import COSIGNATURE, BadNote, Key, Note
from kasbah.audit.log.tiles import TileTree
from kasbah.audit.witness.cosigning import request
from kasbah.common import rls
from kasbah.common.env import SettingMissing

TIMEOUT = 5.0  # seconds that a witness has
LARGEST = 64 * 1024  # bytes of its answer
CARRIED = 100_000  # checkpoints among which the one is looked for that a carried answer is about: a day and more

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """A witness of this installation."""

    key: Key
    url: str


def configured() -> list[Known]:
    """The witnesses of KASBAH_WITNESSES. Raises SettingMissing for an entry that is none."""
    found = []
    for entry in filter(None, (each.strip() for each in settings.WITNESSES.split(","))):
        vkey, _, url = entry.partition(" ")
        try:
            key = Key.parse(vkey)
        except BadNote as error:
            raise SettingMissing(f"KASBAH_WITNESSES: {error}") from error
        if key.kind != COSIGNATURE or urlsplit(url.strip()).scheme not in ("http", "https"):
            raise SettingMissing("KASBAH_WITNESSES: each entry is the key of a witness, a space and its http(s) URL")
        found.append(Known(key, url.strip().rstrip("/")))
    return found


def newest(log: Log) -> SignedCheckpoint | None:
    """The newest checkpoint whose tiles are written."""
    log.refresh_from_db()
    return log.proven().first()


def request_for(log: Log, checkpoint: SignedCheckpoint, known: int) -> str:
    """What a witness that has seen `known` events is asked. Raises tiles.TileMissing."""
    tree = TileTree(log.tiled, sequencer.tiles(log).read)
    proof = merkle.consistency_proof(known, checkpoint.size, tree.node)
    return request(known, tuple(proof), checkpoint.note)


def seen_by(log: Log, key: Key) -> int:
    """The largest size that the witness is known to have cosigned."""
    row = Cosignature.objects.filter(checkpoint__log=log, witness=key.name).order_by("-checkpoint__size").first()
    return row.checkpoint.size if row is not None else 0


def keep(checkpoint: SignedCheckpoint, key: Key, lines: str) -> Cosignature:
    """Keep a witness's line once it holds. Raises BadNote."""
    note = Note.parse(checkpoint.note + lines)
    if key not in note.verified([key]):
        raise BadNote(f"{key.name} has not signed the checkpoint of {checkpoint.size} events")
    line = next(one.line() for one in note.signatures if (one.name, one.id) == (key.name, key.id))
    row, _ = Cosignature.objects.get_or_create(
        checkpoint=checkpoint, witness=key.name, defaults={"line": line, "tenant_id": checkpoint.tenant_id}
    )
    return row


def keep_any(log: Log, key: Key, lines: str) -> Cosignature:
    """Keep a line that was carried here; it is about one of the newest checkpoints. Raises BadNote."""
    for checkpoint in SignedCheckpoint.objects.filter(log=log).order_by("-size")[:CARRIED]:
        with contextlib.suppress(BadNote):
            return keep(checkpoint, key, lines)
    raise BadNote(f"the answer of {key.name} is about none of the {CARRIED} newest checkpoints of {log.origin}")


def ask_all() -> int:
    """Ask every witness about every log that grew; how many cosigned. What fails is logged and asked again."""
    done = 0
    known = configured()
    with rls.platform_scope():
        logs = list(Log.objects.all()) if known else []
    with httpx.Client(timeout=TIMEOUT, follow_redirects=False) as client:
        for witness in known:
            for log in logs:
                try:
                    done += _ask(client, witness, log)
                except (httpx.HTTPError, BadNote, OSError) as error:
                    logger.warning("Witness %s: %s: %s", witness.key.name, log.origin, error or type(error).__name__)
    return done


def _ask(client: httpx.Client, witness: Known, log: Log) -> bool:
    with rls.platform_scope():
        checkpoint = newest(log)
        size = seen_by(log, witness.key)
    if checkpoint is None or checkpoint.size <= size:
        return False
    answer = _post(client, witness, request_for(log, checkpoint, size))
    if answer.status_code == 409 and answer.text.strip().isdigit():  # it has seen another size than we noted
        size = int(answer.text)
        if size > checkpoint.size:
            raise BadNote(f"it has seen {size} events, and the log has {checkpoint.size}: was the log restored?")
        answer = _post(client, witness, request_for(log, checkpoint, size))
    if answer.status_code != 200:
        raise BadNote(f"it answered {answer.status_code}: {answer.text[:200].strip()}")
    with rls.platform_scope():
        keep(checkpoint, witness.key, answer.text)
    return True


def _post(client: httpx.Client, witness: Known, body: str) -> httpx.Response:
    with client.stream("POST", f"{witness.url}/add-checkpoint", content=body.encode()) as answer:
        size = 0
        parts = []
        for part in answer.iter_bytes():
            size += len(part)
            if size > LARGEST:
                raise BadNote(f"its answer is over {LARGEST} bytes")
            parts.append(part)
    return httpx.Response(answer.status_code, content=b"".join(parts))
