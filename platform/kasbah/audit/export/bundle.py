"""Writing an export: a deterministic zip of a part of a log, complete in itself.

The same plan under the same checkpoint gives the same bytes, whether or not it was cut off on the way. What is written
is checked: an export that would not verify is never finished.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from importlib import resources
from itertools import islice
from typing import IO

from inference_worker.contract import canonical
from kasbah.audit.export.archive import Archive
from kasbah.audit.export.plan import Facts, Plan, Run, pieces
from kasbah.audit.export.verifier import joined
from kasbah.audit.export.verifier.archive import FORMAT
from kasbah.audit.export.verifier.failure import MISSHAPEN, Failed
from kasbah.audit.export.verifier.proofs import PROOFS
from kasbah.audit.export.verifier.tree import Tree, check_consistency, levels
from kasbah.audit.export.views import VIEWS, Header
from kasbah.audit.export.work import Work
from kasbah.audit.log import note
from kasbah.audit.log.merkle import Node, consistency_proof, inclusion_proof, leaf_hash
from kasbah.audit.log.note import Checkpoint, Key, Note, Signature, lines_of, tlog_proof
from kasbah.audit.log.tiles import WIDTH, name, width_of
from kasbah.common.errors import Unavailable

Sign = Callable[[str], Signature]
Progress = Callable[[int, int], None]  # how much is done, of how much
SEGMENT = 20_000  # events that are read again, at most, after an export was cut off


class ExportBroken(Unavailable):
    """What the database holds is not what was signed."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where an export comes from: `events` gives exact bytes in order, `tile` a tile's by its name.

    `files` gives what is put beside the events, each file by its path and in pieces. `successions` are the notes by
    which the log's keys handed over, the oldest first.
    """

    events: Callable[[Sequence[Run]], Iterable[bytes]]
    node: Node
    tile: Callable[[str], bytes]
    files: Callable[[], Iterable[tuple[str, Iterable[bytes]]]] = tuple
    successions: Sequence[str] = ()


def write_bundle(
    file: IO[bytes],
    work: Work,
    plan: Plan,
    source: Source,
    *,
    key: Key,
    private: Callable[[bytes], bytes],
    progress: Progress = lambda _done, _of: None,
) -> str:
    """Write the export and return the SHA-256 of its manifest. Each event counts twice in `progress`: when it is read
    into `work`, which must have begun with this plan, and when it is written.

    Raises ExportBroken, tiles.TileMissing, work.Damaged.
    """
    _collect(work, plan, source, progress)
    with closing(Archive(file)) as archive, ExitStack() as spools:
        _checkpoints(archive, plan, source.node)
        _successions(archive, plan, source)
        with archive.stream("gaps.jsonl") as write:
            for line in _gaps(plan, source.node):
                write(line)
        header = _header(plan, lambda: spools.enter_context(tempfile.TemporaryFile(dir=work.folder)))
        views = [view(header) for view in VIEWS]
        with archive.stream("events.jsonl") as write:
            for number, data in _checked(work, plan, source.node, progress):
                write(data + b"\n")
                event = _parsed(data, work)
                try:
                    for view in views:
                        view.add(number, event, data)
                except MISSHAPEN as error:  # no event that was ever signed is of such a shape
                    raise _broken(work) from error
        for made in (made for view in views for made in view.finish()):
            archive.copy(made.path, made.file)
        if not plan.whole and plan.events <= PROOFS:
            for number in plan.numbers():
                archive.add(f"proofs/{number}.tlog-proof", inclusion(plan, number, source.node))
        for path, pieces_of in source.files():
            with archive.stream(path) as write:
                for piece in pieces_of:
                    write(piece)
        for path in _tiles(plan.signed.size) if plan.whole else ():
            archive.add(path, source.tile(path))
        archive.add("VERIFY.md", resources.files("kasbah.audit.export").joinpath("VERIFY.md").read_bytes())
        archive.add("verify.py", joined.program().encode())
        return _manifest(archive, plan, lambda text: note.sign(text, key, private))


def inclusion(plan: Plan, index: int, node: Node) -> bytes:
    """The file `<index>.tlog-proof` of an event."""
    hashes = inclusion_proof(index, plan.signed.size, node)
    return tlog_proof(index, hashes, str(plan.checkpoint)).encode()


def _collect(work: Work, plan: Plan, source: Source, progress: Progress) -> None:
    """Read the events that are not in the work's folder yet."""
    done = work.events
    for piece in islice(pieces(plan.runs, SEGMENT), work.segments, None):
        done += work.add(source.events(piece))
        progress(done, 2 * plan.events)


def _checkpoints(archive: Archive, plan: Plan, node: Node) -> None:
    archive.add("checkpoint", str(plan.checkpoint).encode())
    if plan.previous is None:
        return
    earlier, signed = Checkpoint.parse(plan.previous.text), plan.signed
    proof = consistency_proof(earlier.size, signed.size, node)
    try:
        check_consistency(earlier.size, earlier.root, signed.size, signed.root, proof)
    except Failed as failure:
        raise ExportBroken(f"Two checkpoints of {signed.origin} do not fit each other: {failure}") from failure
    archive.add("checkpoint.previous", str(plan.previous).encode())
    archive.add("consistency.txt", "".join(f"{line}\n" for line in lines_of(proof)).encode())


def _successions(archive: Archive, plan: Plan, source: Source) -> None:
    """How keys handed over; without tiles also that the log begins with what each of them signed last."""
    size = plan.signed.size
    for number, handed_over in enumerate(source.successions):
        archive.add(f"keys/{number:04}.note", handed_over.encode())
        if plan.whole:
            continue
        if (turn := int(handed_over.split("\n")[2])) <= size:
            lines = lines_of(consistency_proof(turn, size, source.node))
            archive.add(f"turns/{number:04}.txt", "".join(f"{line}\n" for line in lines).encode())


def _gaps(plan: Plan, node: Node) -> Iterator[bytes]:
    """One line for each stretch that is not shown, with the roots of the complete subtrees that cover it."""
    for gap in plan.gaps():
        said = {
            "start": gap.start,
            "end": gap.end,
            "reason": gap.reason,
            "hashes": lines_of(list(_subtrees(gap.start, gap.end, node))),
        }
        yield canonical.dumps(said | ({"event": gap.event} if gap.event else {})) + b"\n"


def _subtrees(start: int, end: int, node: Node) -> Iterator[bytes]:
    for level in levels(start, end):
        yield node(level, start >> level)
        start += 1 << level


def _checked(work: Work, plan: Plan, node: Node, progress: Progress) -> Iterator[tuple[int, bytes]]:
    """Every event with its index. Raises ExportBroken, at the end, when they are not those that were signed."""
    tree, numbers, done = Tree(), plan.numbers(), 0
    signed, events = plan.signed, plan.events
    for data in work.read():
        number = next(numbers, signed.size)
        if tree.size != number:
            _fill(tree, number, node)
        tree.add(leaf_hash(data))
        yield number, data
        done += 1
        progress(events + done, 2 * events)
    _fill(tree, signed.size, node)
    if done != events or tree.root() != signed.root:
        raise _broken(work)


def _parsed(data: bytes, work: Work) -> Facts:
    try:
        event = canonical.loads(data)
    except canonical.NotCanonical as error:
        raise _broken(work) from error
    if not isinstance(event, dict):
        raise _broken(work)
    return event


def _broken(work: Work) -> ExportBroken:
    work.discard()
    return ExportBroken("The log's events are not those that were signed. Run: manage.py auditlog check")


def _fill(tree: Tree, size: int, node: Node) -> None:
    """Let the tree grow to `size` by subtrees of which no event is shown."""
    for level in levels(tree.size, size):
        tree.add(node(level, tree.size >> level), level)


def _header(plan: Plan, spool: Callable[[], IO[bytes]]) -> Header:
    signed = plan.signed
    return Header(
        origin=signed.origin,
        selection=dict(plan.selection) | {"start": plan.start, "end": plan.end},
        events=plan.events,
        size=signed.size,
        root=signed.root.hex(),
        signers=[signature.name for signature in plan.checkpoint.signatures],
        spool=spool,
    )


def _manifest(archive: Archive, plan: Plan, sign: Sign) -> str:
    signed = plan.signed
    manifest = canonical.dumps(
        {
            "format": FORMAT,
            "origin": signed.origin,
            "selection": plan.selection,
            "start": plan.start,
            "end": plan.end,
            "events": plan.events,
            "opened": list(plan.opened),
            "size": signed.size,
            "root": signed.root.hex(),
            "files": archive.files,
        }
    )
    digest = hashlib.sha256(manifest).hexdigest()
    text = f"{FORMAT}\n{signed.origin}\n{digest}\n"
    archive.add("MANIFEST.json", manifest)
    archive.add("MANIFEST.note", str(Note(text, (sign(text),))).encode())
    return digest


def _tiles(size: int) -> Iterator[str]:
    """Names of all tiles of a tree."""
    level = 0
    while size >> (8 * level):
        for index in range(((size >> (8 * level)) + WIDTH - 1) // WIDTH):
            yield name(level, index, width_of(level, index, size))
        level += 1
