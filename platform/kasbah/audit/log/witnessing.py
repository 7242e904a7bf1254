"""Asking witnesses to cosign (C2SP tlog-witness), over HTTP or by a file that somebody carries.

A witness that is away delays nothing: its cosignature is missing, and an export says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass

import httpx
from django.conf import settings

from kasbah.audit.log import merkle, sequencer
from kasbah.audit.log.models import Cosignature, Log, SignedCheckpoint
from kasbah.audit.log.note import COSIGNATURE, BadNote, Key, Note
from kasbah.audit.log.tiles import TileMissing, TileTree
from kasbah.audit.witness.cosigning import request
from kasbah.common import rls
from kasbah.common.env import SettingInvalid
from kasbah.common.numbers import LARGEST_SIZE, whole_number
from kasbah.common.parallel import run_each

TIMEOUT = 5.0  # seconds that a witness has for one answer, from the first byte sent to the last one received
RUN = 20.0  # seconds after which a run asks nothing more
PARALLEL = 4  # witnesses at once
LARGEST = 64 * 1024  # bytes of its answer
CARRIED = 100_000  # checkpoints among which the one is looked for that a carried answer is about: a day and more

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """A witness of this installation."""

    key: Key
    url: str


def configured() -> list[Known]:
    """The witnesses of KASBAH_WITNESSES. Raises SettingInvalid for an entry that is none."""
    found = []
    for entry in filter(None, (each.strip() for each in settings.WITNESSES.split(","))):
        vkey, _, url = entry.partition(" ")
        try:
            key = Key.parse(vkey)
        except BadNote as error:
            raise SettingInvalid(f"KASBAH_WITNESSES: {error}") from error
        if key.kind != COSIGNATURE or not _is_address(url.strip()):
            raise SettingInvalid("KASBAH_WITNESSES: each entry is the key of a witness, a space and its http(s) URL")
        found.append(Known(key, url.strip().rstrip("/")))
    return found


def _is_address(url: str) -> bool:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return parsed.scheme in ("http", "https") and bool(parsed.host)


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


class NoAnswer(Exception):
    """The witness did not give a whole answer: it is away, refuses connections or takes too long."""


class Connection:
    """The line to one witness, for one run.

    In an event loop of its own, because only there an answer that comes drop by drop can be cut off as a whole:
    a time-out of a socket begins anew with each byte.
    """

    def __init__(self, url: str) -> None:
        self._address = f"{url}/add-checkpoint"
        self._runner = asyncio.Runner()
        # Connecting and TLS have less than half each: cut off within these, httpx would leave its socket open.
        timeout = httpx.Timeout(TIMEOUT, connect=TIMEOUT * 0.45)
        self._client = httpx.AsyncClient(timeout=timeout, follow_redirects=False)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()

    def post(self, body: str) -> tuple[int, str]:
        """Status and text of the answer, at most LARGEST bytes. Raises NoAnswer, BadNote."""
        try:
            return self._runner.run(self._exchange(body.encode()))
        except TimeoutError as error:
            raise NoAnswer(f"it did not answer within {TIMEOUT:.0f} s") from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise NoAnswer(f"it cannot be reached: {error or type(error).__name__}") from error

    async def _exchange(self, body: bytes) -> tuple[int, str]:
        async with asyncio.timeout(TIMEOUT), self._client.stream("POST", self._address, content=body) as answer:
            received = bytearray()
            async for part in answer.aiter_raw(LARGEST):
                received += part
                if len(received) > LARGEST:
                    raise BadNote(f"its answer is over {LARGEST} bytes")
            return answer.status_code, received.decode(errors="replace")


def ask_all() -> int:
    """Asks every witness about every log that grew; returns how many checkpoints were cosigned.

    Each witness has a thread of its own, so that one that hangs takes nothing from the others. What fails is logged
    and asked again in the next run.
    """
    end = time.monotonic() + RUN
    return run_each(lambda witness: _ask_one(witness, end), configured(), parallel=PARALLEL, name="witness")


def _ask_one(witness: Known, end: float) -> int:
    """Asks one witness, in random order, so that no log always stands behind those that use up the time."""
    done = 0
    with rls.platform_scope():
        logs = list(Log.objects.all())
    random.shuffle(logs)
    with Connection(witness.url) as connection:
        for log in logs:
            if time.monotonic() > end:
                logger.warning("Witness %s: its time is up; the other logs are asked about next time", witness.key.name)
                break
            try:
                done += _ask(connection, witness, log)
            except NoAnswer as error:  # nor would it answer about the next log: the rest of the run is without it
                logger.warning("Witness %s: %s", witness.key.name, error)
                break
            except (BadNote, TileMissing, OSError) as error:
                logger.warning("Witness %s: %s: %s", witness.key.name, log.origin, error or type(error).__name__)
    return done


def _ask(connection: Connection, witness: Known, log: Log) -> bool:
    with rls.platform_scope():
        checkpoint = newest(log)
        size = seen_by(log, witness.key)
    if checkpoint is None or checkpoint.size <= size:
        return False
    status, text = connection.post(request_for(log, checkpoint, size))
    if status == 409:  # it has seen another size than we noted
        size = _size(text)
        if size > checkpoint.size:
            raise BadNote(f"it has seen {size} events, and the log has {checkpoint.size}: was the log restored?")
        status, text = connection.post(request_for(log, checkpoint, size))
    if status != 200:
        raise BadNote(f"it answered {status}: {text[:200].strip()!r}")
    with rls.platform_scope():
        keep(checkpoint, witness.key, text)
    return True


def _size(text: str) -> int:
    """The size in the answer to a request about another one. Raises BadNote."""
    size = whole_number(text.strip(), 0, LARGEST_SIZE)
    if size is None:
        raise BadNote("it answered 409 without the size that it has seen")
    return size
