"""The events are the leaves of the signed tree, and where they are not, what was done to them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.events import EVENTS, Events, check_parts
from kasbah.audit.export.verifier.failure import Facts, Failed, reading
from kasbah.audit.export.verifier.gaps import Filler, Gap, Numbers, shown_runs
from kasbah.audit.export.verifier.notes import read_note
from kasbah.audit.export.verifier.proofs import PROOFS, check_evidence, check_own
from kasbah.audit.export.verifier.tally import log_facts
from kasbah.audit.export.verifier.tree import Tree, leaf_hash
from kasbah.audit.export.verifier.views import Derived

SURPLUS = 1_000  # events more than the manifest has, of which it is still told whether they are new or doubled


def known_leaves(bundle: Bundle, manifest: Facts) -> list[bytes]:
    """The leaf hashes that the tiles hold, of the events that the export shows."""
    found: list[bytes] = []
    for run in shown_runs(bundle, manifest):
        for index in range(run.start // 256, (run.stop + 255) // 256):
            data = read_tile(bundle, index, manifest["size"])
            first = index * 256
            rows = [data[at : at + 32] for at in range(0, len(data), 32)]
            found += rows[max(run.start - first, 0) : run.stop - first]
    return found


def tile_name(index: int, width: int) -> str:
    """Path of a tile of level 0 (tlog-tiles)."""
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.insert(0, f"x{index % 1000:03d}")
    return "tile/0/" + "/".join(parts) + (f".p/{width}" if width < 256 else "")


def read_tile(bundle: Bundle, index: int, size: int) -> bytes:
    """The leaf hashes of a tile of level 0, of a log of `size` events."""
    width = min(256, size - index * 256)
    return bundle.read(tile_name(index, width), width * 32)


def diagnose(given: list[bytes], wanted: list[bytes]) -> Failed:
    """Why the events are not the leaves that were signed. `given` and `wanted` are leaf hashes."""
    places = {leaf: index for index, leaf in enumerate(wanted)}
    unknown = next((at for at, leaf in enumerate(given) if leaf not in places), None)
    if len(set(given)) < len(given):
        return Failed("event_duplicated", "an event is there twice")
    if unknown is not None:
        if len(given) > len(wanted):
            return Failed("event_inserted", f"event {unknown} was never in the log")
        return Failed("event_changed", f"event {unknown} is not the one that was signed")
    if len(given) < len(wanted):
        if given == wanted[: len(given)]:
            return Failed("tail_cut", f"the last {len(wanted) - len(given)} events are missing")
        return Failed("event_missing", f"{len(wanted) - len(given)} events are missing")
    return Failed("events_reordered", "the events are not in the order in which they were signed")


def read_events(bundle: Bundle, manifest: Facts, root: bytes, views: Derived | None) -> tuple[Events, list[Gap], str]:
    """Every event, its leaf in the tree, what the views say of it. Returns what was seen of them, what is said to be
    pruned, and the digest of the file."""
    tree, events, digest = Tree(), Events(), hashlib.sha256()
    filler, shown = Filler(bundle, manifest), 0
    for part in check_parts(bundle, digest, manifest, Numbers(bundle, manifest), views is not None):
        events.take(part)
        shown += len(part.leaves)
        if views is not None:
            views.take(part.views)
        for number, leaf in zip(part.numbers, part.leaves):  # noqa: B905 - of one length; Python 3.10
            if tree.size != number:
                filler.fill(tree, number)
            tree.add(leaf)
    filler.fill(tree, manifest["size"])
    if shown != manifest["events"]:
        raise Failed("manifest_changed", f"there are {shown} events, and the manifest says {manifest['events']}")
    if tree.size != manifest["size"]:
        raise Failed("root_mismatch", "there are more events than the log has")
    if tree.root() != root:
        raise Failed("root_mismatch", "events and tiles fit each other, and not what was signed")
    return events, filler.pruned, digest.hexdigest()


def leaves_given(bundle: Bundle) -> Iterator[bytes]:
    """Leaf hashes of the events as they stand in the export."""
    return (leaf_hash(line.rstrip(b"\n")) for line in bundle.lines(EVENTS))


def check_log(bundle: Bundle, manifest: Facts, root: bytes, *, views: bool) -> tuple[Events, list[Gap]]:
    """The events are the leaves at their indices of the signed tree; in a range, none is changed, added, left out."""
    derived = Derived() if views else None
    try:
        events, pruned, digest = read_events(bundle, manifest, root, derived)
    except Failed as failure:
        if failure.name != "filtered_export":
            explain(bundle, manifest, root)  # a changed event is what is wrong, not what the change made of it
        raise
    if digest != manifest["files"].get(EVENTS, {}).get("sha256"):
        raise Failed("file_changed", "events.jsonl is not the file that was signed")
    whole = manifest["selection"]["kind"] == "range"
    if not whole:
        check_proofs(bundle, manifest, root)
    for part in check_evidence(bundle, manifest, root):
        events.know(part)
    check_pruned(pruned, events)
    left = events.unanswered()
    if whole and left and not pruned:
        raise Failed("intent_without_outcome", f"{len(left)} requests have no outcome, the first is event {left[0]}")
    if derived is not None:  # after the log itself: a view of what is wrong differs too
        with reading("what the views say of the events", "event_malformed"):
            derived.check(bundle, report_log(bundle, manifest))
    return events, pruned


def report_log(bundle: Bundle, manifest: Facts) -> Facts:
    """What the report says of the log as a whole."""
    selection = manifest["selection"] | {"start": manifest["start"], "end": manifest["end"]}
    _, signatures = read_note(bundle.text("checkpoint"))
    signers = [name for name, _, _ in signatures]
    return log_facts(manifest["origin"], selection, manifest["size"], manifest["root"], signers)


def check_pruned(gaps: list[Gap], events: Events) -> None:
    """What is gone by a policy is what the log itself says is gone; all else was deleted."""
    for gap in gaps:
        ranges = [one.split("-") for one in events.pruned.get(gap.event, [])]
        if not any(int(start) <= gap.start and gap.end <= int(end) for start, end in ranges):
            raise Failed("event_missing", f"events {gap.start} to {gap.end} are gone, and nothing says by what policy")


def check_proofs(bundle: Bundle, manifest: Facts, root: bytes) -> None:
    """Each event of a small selection has its own proof."""
    if manifest["events"] <= PROOFS:
        for number, leaf in zip(shown_numbers(bundle, manifest), leaves_given(bundle)):  # noqa: B905 - the root holds
            check_own(bundle, f"proofs/{number}.tlog-proof", number, leaf, (manifest["size"], root))


def shown_numbers(bundle: Bundle, manifest: Facts) -> Iterator[int]:
    """The indices of the events that are shown."""
    return (number for run in shown_runs(bundle, manifest) for number in run)


def explain(bundle: Bundle, manifest: Facts, root: bytes) -> None:
    """Raise what is wrong with the events, where the tiles tell it, or the proofs of single events."""
    given = list(islice(leaves_given(bundle), manifest["events"] + SURPLUS))
    if manifest["selection"]["kind"] == "range":
        wanted = known_leaves(bundle, manifest)
        if given != wanted:
            raise diagnose(given, wanted)
        return
    number = sum(run.stop - run.start for run in shown_runs(bundle, manifest))
    if len(given) > number:
        raise Failed("event_inserted", f"{len(given) - number} events were added to the selection")
    if len(given) < number:
        raise Failed("event_missing", f"{number - len(given)} events of the selection are missing")
    if len(set(given)) < len(given):
        raise Failed("event_duplicated", "an event is there twice")
    if len(given) <= PROOFS:
        numbers = list(shown_numbers(bundle, manifest))
        wrong = [one for one in zip(numbers, given) if not proven(bundle, *one, manifest, root)]  # noqa: B905
        if wrong and any(proven(bundle, number, wrong[0][1], manifest, root) for number, _ in wrong):
            raise Failed("events_reordered", "the events are not in the order in which they were signed")
        if wrong:
            raise Failed("event_changed", f"event {wrong[0][0]} is not the one that was signed")


def proven(bundle: Bundle, number: int, leaf: bytes, manifest: Facts, root: bytes) -> bool:
    """Whether the export's own proof of the event `number` is one of this leaf."""
    try:
        check_own(bundle, f"proofs/{number}.tlog-proof", number, leaf, (manifest["size"], root))
    except Failed:
        return False
    return True
