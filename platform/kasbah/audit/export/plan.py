"""What an export shows of a log, and why it does not show the rest: an ordered sequence of events and of gaps. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from inference_worker.contract import canonical
from kasbah.audit.log.note import Checkpoint, Note

Facts = dict[str, Any]
RANGE = "range"  # the kind of selection that leaves nothing out between its ends
OUTSIDE, NOT_SELECTED, PRUNED = "outside", "not_selected", "pruned"


@dataclass(frozen=True, slots=True)
class Run:
    """Events `start` to `end` (exclusive), which follow each other."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Gap:
    """Events that are not shown. `event`: of what was pruned, the event that tells of it."""

    start: int
    end: int
    reason: str
    event: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """An export of the log that `checkpoint` signs: of the events `start` to `end` (exclusive) those in `runs`.

    `selection` has `kind` and what it selects by; `opened` names the parts of requests whose content is opened.
    `previous` is an earlier checkpoint with which this one is proven to be consistent.
    """

    selection: Facts
    start: int
    end: int
    checkpoint: Note
    runs: Sequence[Run]
    pruned: Sequence[Gap] = ()
    previous: Note | None = None
    opened: Sequence[str] = ()

    @property
    def signed(self) -> Checkpoint:
        """What the checkpoint says."""
        return Checkpoint.parse(self.checkpoint.text)

    @property
    def whole(self) -> bool:
        """Whether every event of the range is shown, or pruned."""
        return bool(self.selection["kind"] == RANGE)

    @property
    def events(self) -> int:
        """How many are shown."""
        return sum(run.end - run.start for run in self.runs)

    def numbers(self) -> Iterator[int]:
        """Their indices."""
        for run in self.runs:
            yield from range(run.start, run.end)

    def gaps(self) -> Iterator[Gap]:
        """What lies between the runs, in order."""
        at = 0
        for run in self.runs:
            yield from self._between(at, run.start)
            at = run.end
        yield from self._between(at, self.signed.size)

    def _between(self, start: int, end: int) -> Iterator[Gap]:
        yield from _cut(start, min(end, self.start), OUTSIDE)
        at, last = max(start, self.start), min(end, self.end)
        for pruned in self.pruned:
            if pruned.end > at and pruned.start < last:
                yield from _cut(at, pruned.start, NOT_SELECTED)
                at = max(at, pruned.start)
                yield Gap(at, min(pruned.end, last), PRUNED, pruned.event)
                at = min(pruned.end, last)
        yield from _cut(at, last, NOT_SELECTED)
        yield from _cut(max(start, self.end), end, OUTSIDE)

    def digest(self) -> str:
        """Of all that decides what is written: an export that was cut off goes on only with the same."""
        runs = hashlib.sha256()
        for run in self.runs:
            runs.update(b"%d-%d\n" % (run.start, run.end))
        said = {
            "selection": self.selection,
            "range": [self.start, self.end],
            "checkpoint": self.checkpoint.text,
            "previous": self.previous.text if self.previous else "",
            "pruned": [[gap.start, gap.end, gap.event] for gap in self.pruned],
            "opened": list(self.opened),
            "runs": runs.hexdigest(),
        }
        return hashlib.sha256(canonical.dumps(said)).hexdigest()


def _cut(start: int, end: int, reason: str) -> Iterator[Gap]:
    if start < end:
        yield Gap(start, end, reason)


def kept(start: int, end: int, pruned: Sequence[Gap]) -> list[Run]:
    """The runs of a range of which some was pruned."""
    found, at = [], start
    for gap in pruned:
        if gap.end > at and gap.start < end:
            if at < gap.start:
                found.append(Run(at, gap.start))
            at = gap.end
    if at < end:
        found.append(Run(at, end))
    return found


def joined(numbers: Iterable[int]) -> list[Run]:
    """The runs of indices that come in order."""
    found: list[Run] = []
    start = end = -1
    for number in numbers:
        if number != end:
            if end > start:
                found.append(Run(start, end))
            start = number
        end = number + 1
    if end > start:
        found.append(Run(start, end))
    return found


def pieces(runs: Iterable[Run], size: int) -> Iterator[list[Run]]:
    """The same runs, cut into lists that hold `size` events; the last one may hold fewer."""
    piece: list[Run] = []
    room = size
    for run in runs:
        at = run.start
        while at < run.end:
            end = min(run.end, at + room)
            piece.append(Run(at, end))
            room -= end - at
            at = end
            if not room:
                yield piece
                piece, room = [], size
    if piece:
        yield piece
