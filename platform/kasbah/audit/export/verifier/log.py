"""The events are the leaves of the signed tree, and where they are not, what was done to them."""

from __future__ import annotations

import base64
import hashlib
import json

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.events import Events, check_parts
from kasbah.audit.export.verifier.failure import Facts, Failed
from kasbah.audit.export.verifier.tree import Tree, leaf_hash, levels
from kasbah.audit.export.verifier.views import View


def known_leaves(bundle: Bundle, manifest: Facts) -> list[bytes]:
    """The leaf hashes that the tiles hold, for the range of the export."""
    start, end, size = manifest["start"], manifest["end"], manifest["size"]
    found: list[bytes] = []
    for index in range(start // 256, (end + 255) // 256):
        data = bundle.read(tile_name(index, min(256, size - index * 256)))
        first = index * 256
        rows = [data[at : at + 32] for at in range(0, len(data), 32)]
        found += rows[max(start - first, 0) : end - first]
    return found


def tile_name(index: int, width: int) -> str:
    """Path of a tile of level 0 (tlog-tiles)."""
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.insert(0, f"x{index % 1000:03d}")
    return "tile/0/" + "/".join(parts) + (f".p/{width}" if width < 256 else "")


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


def read_events(bundle: Bundle, manifest: Facts, boundary: Facts) -> tuple[Events, bytes | None, str]:
    """Every event, its leaf in the tree, its row in the view. Returns what was seen of them."""
    before, after = ([base64.b64decode(one) for one in boundary[side]] for side in ("before", "after"))
    start, end, size = manifest["start"], manifest["end"], manifest["size"]
    tree, events, view, digest = Tree(), Events(), View(bundle), hashlib.sha256()
    for level, node in zip(levels(0, start), before, strict=False):
        tree.add(node, level)
    with bundle.open("events.jsonl") as file:
        for part in check_parts(file, digest, manifest):
            events.take(part)
            view.expect(part.rows.getvalue(), f"from row {part.first}")
            for leaf in part.leaves:
                tree.add(leaf)
    view.end()
    for level, node in zip(levels(end, size), after, strict=False):
        tree.add(node, level)
    exact = (tree.size, len(before), len(after)) == (size, len(list(levels(0, start))), len(list(levels(end, size))))
    return events, tree.root() if exact else None, digest.hexdigest()


def leaves_given(bundle: Bundle) -> list[bytes]:
    """Leaf hashes of the events as they stand in the export."""
    with bundle.open("events.jsonl") as file:
        return [leaf_hash(line.rstrip(b"\n")) for line in file]


def check_log(bundle: Bundle, manifest: Facts, root: bytes) -> Events:
    """The events are the leaves between `start` and `end` of the signed tree: none changed, added, left out."""
    boundary = json.loads(bundle.read("range.json"))
    try:
        events, found, digest = read_events(bundle, manifest, boundary)
    except Failed:
        explain(bundle, manifest)  # a changed event is what is wrong, not what the change made of it
        raise
    if found != root:
        explain(bundle, manifest)
        raise Failed("root_mismatch", "events and tiles fit each other, and not what was signed")
    if digest != manifest["files"]["events.jsonl"]["sha256"]:
        raise Failed("file_changed", "events.jsonl is not the file that was signed")
    left = events.unanswered()
    if left:
        raise Failed("intent_without_outcome", f"{len(left)} requests have no outcome, the first is event {left[0]}")
    return events


def explain(bundle: Bundle, manifest: Facts) -> None:
    """Raise what is wrong with the events, where the tiles tell it."""
    given, wanted = leaves_given(bundle), known_leaves(bundle, manifest)
    if given != wanted:
        raise diagnose(given, wanted)
