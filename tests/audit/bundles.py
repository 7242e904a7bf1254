"""Exports made of events that tests choose, and taken apart again for attacks on them."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from inference_worker.contract import canonical
from kasbah.audit.export.bundle import Source, write_bundle
from kasbah.audit.export.plan import Plan, Run, kept
from kasbah.audit.export.work import Work
from kasbah.audit.log import merkle, note
from kasbah.audit.log.merkle import Frontier
from kasbah.audit.log.note import ED25519, Checkpoint, Key, Note
from kasbah.audit.log.tiles import TileFolder, TileTree

TENANT = "0199c1f2-7a3b-7c4d-8e5f-0123456789ab"
ORIGIN = f"test/audit/{TENANT}"
Files = Iterable[tuple[str, Iterable[bytes]]]
START = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Signed:
    """A log in a folder: its events, and the key that signs for it."""

    folder: Path
    events: list[bytes]
    private: Ed25519PrivateKey

    @property
    def key(self) -> Key:
        """The log's key."""
        return Key(ORIGIN, ED25519, self.private.public_key().public_bytes_raw())

    def checkpoint(self, size: int | None = None) -> Note:
        """The signed checkpoint of the first `size` events."""
        events = self.events[:size]
        root = Frontier().extended(merkle.leaf_hash(event) for event in events).root()
        text = Checkpoint(ORIGIN, len(events), root).text()
        return Note(text, (note.sign(text, self.key, self.private.sign),))

    def tree(self) -> TileTree:
        """Its tree, out of its tiles."""
        return TileTree(len(self.events), TileFolder(self.folder).read)

    def plan(self, start: int = 0, end: int | None = None, **fields: Any) -> Plan:
        """A whole range, or what `fields` say."""
        last = len(self.events) if end is None else end
        given = {"selection": {"kind": "range"}, "runs": kept(start, last, fields.get("pruned", ())), **fields}
        return Plan(start=start, end=last, checkpoint=self.checkpoint(), **given)

    def bundle(self, start: int = 0, end: int | None = None, **given: Any) -> bytes:
        """An export of a range."""
        return self.written(self.plan(start, end), **given)

    def written(
        self,
        plan: Plan,
        files: Files = (),
        *,
        successions: Sequence[str] = (),
        manifest_by: Ed25519PrivateKey | None = None,
    ) -> bytes:
        """The export of a plan. `manifest_by`: its manifest is signed by another key of the log's."""
        private = manifest_by or self.private
        key = Key(ORIGIN, ED25519, private.public_key().public_bytes_raw())
        source = Source(self.shown, self.tree().node, TileFolder(self.folder).read, lambda: files, successions)
        made = io.BytesIO()
        with tempfile.TemporaryDirectory() as temporary, closing(Work(Path(temporary))) as work:
            work.begin(plan.digest(), str(plan.checkpoint))
            write_bundle(made, work, plan, source, key=key, private=private.sign)
        return made.getvalue()

    def shown(self, runs: Sequence[Run]) -> Iterator[bytes]:
        """The events of these runs."""
        for run in runs:
            yield from self.events[run.start : run.end]


def event(number: int, **fields: Any) -> bytes:
    """The bytes of one event."""
    moment = START + timedelta(seconds=number)
    document = {
        "version": 1,
        "id": str(UUID(int=(0x7 << 76) | (0b10 << 62) | number)),
        "time": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": "key.created",
        "outcome": "success",
        "tenant": TENANT,
        "actor": {"kind": "user", "id": "u1", "authentication": "session"},
        "source": {"service": "control-plane", "build": "kasbah 0.1.0"},
    }
    return canonical.dumps(document | fields)


def signed(folder: Path, events: Sequence[bytes], private: Ed25519PrivateKey | None = None) -> Signed:
    """A log of these events."""
    TileFolder(folder).extend(0, [merkle.leaf_hash(one) for one in events])
    return Signed(folder, list(events), private or Ed25519PrivateKey.generate())


def altered(bundle: bytes, change: Callable[[dict[str, bytes]], None]) -> bytes:
    """The export with its files changed by somebody who has no key."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()
