"""What an export does not show of the log: each gap says why, and has the hashes that stand for it in the tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.documents import read_base64
from kasbah.audit.export.verifier.failure import Facts, Failed
from kasbah.audit.export.verifier.tree import Tree, levels

GAP_REASONS = ("outside", "not_selected", "pruned")
GAP = {"start": int, "end": int, "reason": str, "hashes": list}


class Gap(NamedTuple):
    """Events `start` to `end` (exclusive); `event` tells of what was pruned."""

    start: int
    end: int
    reason: str
    event: str
    hashes: list[bytes]


def read_gaps(bundle: Bundle, manifest: Facts) -> Iterator[Gap]:
    """All gaps in order; that nothing is left out but what may be."""
    at = 0
    for said in bundle.documents("gaps.jsonl", GAP):
        hashes = [read_base64(one, "a hash of gaps.jsonl") for one in said["hashes"]]
        gap = Gap(said["start"], said["end"], said["reason"], said.get("event", ""), hashes)
        if not at <= gap.start < gap.end <= manifest["size"] or gap.reason not in GAP_REASONS:
            raise Failed("range_malformed", f"there is no such gap: {gap.start} to {gap.end}, {gap.reason}")
        if not isinstance(gap.event, str):
            raise Failed("range_malformed", f"the gap from {gap.start} names no event")
        _check_may_be(gap, manifest)
        at = gap.end
        yield gap


def _check_may_be(gap: Gap, manifest: Facts) -> None:
    whole = manifest["selection"]["kind"] == "range"
    within = gap.start < manifest["end"] and gap.end > manifest["start"]
    if (gap.reason == "outside" and within) or (gap.reason == "not_selected" and whole):
        raise Failed(
            "filtered_export",
            f"events {gap.start} to {gap.end} are left out of what is said to hold all from {manifest['start']} to"
            f" {manifest['end']}",
        )


def shown_runs(bundle: Bundle, manifest: Facts) -> Iterator[range]:
    """Indices of the events that are shown, those that follow each other together."""
    at = 0
    for gap in read_gaps(bundle, manifest):
        if at < gap.start:
            yield range(at, gap.start)
        at = gap.end
    if at < manifest["size"]:
        yield range(at, manifest["size"])


class Numbers:
    """Gives the events of a file their indices."""

    def __init__(self, bundle: Bundle, manifest: Facts) -> None:
        self.runs = shown_runs(bundle, manifest)
        self.size = manifest["size"]
        self.left = range(0)

    def take(self, count: int) -> range | list[int]:
        """Those of the next events; what is too much gets indices after the log's end."""
        found: list[int] = []
        while count:
            if not self.left:
                self.left = next(self.runs, range(self.size, 1 << 62))
            part = self.left[:count]
            self.left = self.left[len(part) :]
            count -= len(part)
            if not count and not found:
                return part
            found += part
        return found


class Filler:
    """Puts the hashes of the gaps where their events would stand."""

    def __init__(self, bundle: Bundle, manifest: Facts) -> None:
        self.gaps = read_gaps(bundle, manifest)
        self.pruned: list[Gap] = []

    def fill(self, tree: Tree, size: int) -> None:
        """Let the tree grow to `size`."""
        while tree.size < size:
            gap = next(self.gaps, None)
            if gap is None or gap.start != tree.size:
                raise Failed("root_mismatch", f"event {tree.size} is neither shown nor is it said why not")
            wanted = list(levels(gap.start, gap.end))
            if len(wanted) != len(gap.hashes):
                raise Failed("root_mismatch", f"the gap from {gap.start} to {gap.end} has not the hashes that it needs")
            for level, digest in zip(wanted, gap.hashes):  # noqa: B905 - of one length
                tree.add(digest, level)
            if gap.reason == "pruned":
                self.pruned.append(gap)
