"""What others have kept of the log: witnesses' signatures and earlier checkpoints."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import islice

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.documents import read_base64
from kasbah.audit.export.verifier.events import DECODER, EVENTS
from kasbah.audit.export.verifier.failure import Facts, Failed, readable, reading
from kasbah.audit.export.verifier.gaps import shown_runs
from kasbah.audit.export.verifier.log import read_tile
from kasbah.audit.export.verifier.notes import Key, read_note, signed_by
from kasbah.audit.export.verifier.succession import LogKeys
from kasbah.audit.export.verifier.tree import Tree, check_consistency

Head = tuple[int, bytes]  # size and root


def check_witnesses(note: str, witnesses: list[Key], wanted: int) -> list[str]:
    """Enough of the known witnesses saw this checkpoint; each counts once. Returns lines to print."""
    _, found = signed_by(note, witnesses, "checkpoint")
    names = {key.public for key in found}
    if len(names) < wanted:
        raise Failed("too_few_witnesses", f"{len(names)} of the witnesses given signed the checkpoint, {wanted} must")
    _, signatures = read_note(note)
    known = {(key.name, key.id) for key in found}
    lines = [
        f"           {name} saw this log {_moment(value)}"
        for name, ident, value in signatures
        if (name, ident) in known
    ]
    others = sorted({name for name, ident, _ in signatures[1:] if (name, ident) not in known})
    if others:
        lines.append(f"           NOT CHECKED, no key was given of: {', '.join(others)}")
    said = f"{len(names)} signed" if names else "UNWITNESSED: the log's own key alone vouches for it"
    return [f"witnesses  {said}", *lines]


def _moment(value: bytes) -> str:
    """When a witness signed (C2SP tlog-cosignature), by its own clock."""
    try:
        moment = datetime.fromtimestamp(int.from_bytes(value[:8], "big"), timezone.utc)  # noqa: UP017 - Python 3.10
    except (ValueError, OverflowError, OSError):
        return "at no time"
    return f"at {moment:%Y-%m-%d %H:%M:%S} UTC"


def check_turns(bundle: Bundle, keys: LogKeys, size: int, root: bytes) -> None:
    """The log begins with what each of its keys signed last."""
    for number, (turn, turn_root) in enumerate(keys.turns):
        if turn <= size and not has_tiles(bundle):
            check_consistency(turn, turn_root, size, root, read_hashes(bundle, f"turns/{number:04}.txt"))
        elif turn <= size and root_of_first(bundle, turn, size) != turn_root:
            raise Failed("history_rewritten", f"the log does not begin with the {turn} events of an earlier key")


def has_tiles(bundle: Bundle) -> bool:
    """Whether the whole tree is there; a selection has proofs instead."""
    return any(name.startswith("tile/") for name in bundle.infos)


def read_hashes(bundle: Bundle, path: str) -> list[bytes]:
    """A consistency proof."""
    return [read_base64(line, path, size=32) for line in bundle.text(path).split()]


def root_of_first(bundle: Bundle, old: int, size: int) -> bytes:
    """Root of the first `old` events of a log of `size`, by its tiles."""
    tree = Tree()
    for index in range((old + 255) // 256):
        data = read_tile(bundle, index, size)
        for at in range(0, min(256, old - index * 256) * 32, 32):
            tree.add(data[at : at + 32])
    return tree.root()


def read_previous(bundle: Bundle, keys: LogKeys, earlier: LogKeys, signed: Head) -> Head:
    """(size, root) of the earlier checkpoint that the export brings and is consistent with; of no event without one.

    `earlier` are the keys of what was kept, which may be before one that was revoked.
    """
    if "checkpoint.previous" not in bundle.infos:
        return 0, b""
    data = bundle.text("checkpoint.previous")
    try:
        found = keys.checkpoint(data, "previous")
    except Failed:
        if earlier is keys:
            raise
        found = earlier.checkpoint(data, "previous")
    check_consistency(*found, *signed, read_hashes(bundle, "consistency.txt"))
    return found


def check_previous(bundle: Bundle, previous: Head, signed: Head, kept: Head) -> None:
    """The log begins with what was kept from an earlier export. All are (size, root)."""
    (size, root), (old, old_root) = signed, kept
    if old > size:
        raise Failed("history_rewritten", f"a log of {old} events was kept, and this one has {size}")
    if old == size:
        found = root
    elif has_tiles(bundle):
        found = root_of_first(bundle, old, size)
    elif previous[0] == old:
        found = previous[1]
    else:
        raise Failed(
            "consistency_missing",
            f"the export proves nothing about the log of {old} events; ask for one with --since-size {old}",
        )
    if found != old_root:
        name = "split_view" if old == size else "history_rewritten"
        raise Failed(name, f"the log does not begin with the log of {old} events that was kept")


def said_of_previous(bundle: Bundle, manifest: Facts, previous: Head, kept: Head | None) -> list[str]:
    """Lines about the earlier checkpoints with which the log was compared, and about what was not."""
    lines = []
    if previous[1]:
        begins = told_of(bundle, manifest, previous[0])
        lines.append(f"earlier    the log begins with {begins} of a checkpoint that the export brings")
    if kept is None:
        return [*lines, "kept       NOT COMPARED: no checkpoint that you kept was given (--previous)"]
    if not kept[0]:
        return [*lines, "kept       the checkpoint that you kept is of an empty log, with which every log begins"]
    begins, came = told_of(bundle, manifest, kept[0]), manifest["size"] - kept[0]
    return [*lines, f"kept       the log begins with {begins} of the checkpoint that you kept; {came} came since"]


def told_of(bundle: Bundle, manifest: Facts, size: int) -> str:
    """So many events, with the time of the last one where it is shown."""
    time = time_of(bundle, manifest, size - 1)
    return f"the {size} events{f' (until {readable(time)})' if time else ''}"


def time_of(bundle: Bundle, manifest: Facts, number: int) -> str:
    """The time of an event of the log, as it is written; "" where it is not shown."""
    position = 0
    for run in shown_runs(bundle, manifest):
        if number in run:
            position += number - run.start
            break
        position += run.stop - run.start
    else:
        return ""
    with reading(f"event {number}", "event_malformed"):
        line = next(islice(bundle.lines(EVENTS), position, None))
        return str(DECODER.decode(line.decode())["time"])
