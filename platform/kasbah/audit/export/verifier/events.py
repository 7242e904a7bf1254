"""Every event by itself: its bytes, its time, its log; many are looked at by several processes."""

from __future__ import annotations

import contextlib
import csv
import json
import multiprocessing
import os
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import IO, Any

from kasbah.audit.export.verifier.archive import MAX_LINE, Bundle, digest_apart
from kasbah.audit.export.verifier.failure import MISSHAPEN, Facts, Failed
from kasbah.audit.export.verifier.gaps import Numbers
from kasbah.audit.export.verifier.notes import COUNT
from kasbah.audit.export.verifier.parquet import micros_of
from kasbah.audit.export.verifier.tree import leaf_hash
from kasbah.audit.export.verifier.views import Slice

BACKWARDS = 300  # seconds by which an event may lie before an earlier one: transactions overlap, clocks are adjusted
MANY = 20_000  # events from which on several processes share the work
BLOCK = 1 << 20  # bytes of events that are looked at together
EACH = 64  # bytes that a line takes beside its own: a file of nothing but line ends fits into memory too
EVENTS = "events.jsonl"
ERASING = ("content.erased",)
RANGE = f"({COUNT})-({COUNT})"  # of events that were pruned, the end not among them
OPEN = 3600  # seconds after which a request must have its outcome


def _no_float(text: str) -> Any:
    raise ValueError(f"{text[:20]} is not an integer")


# RFC 8785, restricted: what was hashed must be what ENCODER writes again, so a key that is there twice is seen too.
ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
DECODER = json.JSONDecoder(parse_float=_no_float, parse_constant=_no_float)


class Part:
    """What is found in some events that follow each other; workers send it back, so it holds plain values."""

    def __init__(self, numbers: Sequence[int], position: int, views: bool) -> None:
        self.numbers = numbers  # their indices in the log
        self.leaves: list[bytes] = []
        self.views = Slice(position, views)
        self.failure: tuple[str, str] | None = None
        self.earliest, self.latest = float("inf"), 0.0
        self.first = self.last = ""  # times, as they are written
        self.types: dict[str, int] = {}
        self.intents: dict[str, float] = {}  # event -> time
        self.answered: list[str] = []
        self.pruned: dict[str, list[str]] = {}  # event -> ranges of events that it tells of
        self.erasing: dict[str, list[str]] = {}  # event that tells that content was erased -> requests that it names


def check_part(tenant: str, numbers: Sequence[int], lines: list[bytes], position: int = 0, views: bool = False) -> Part:
    """Look at each event by itself, in whatever process. `numbers` are their indices, `position` their first's place
    among the events that are shown."""
    part, number = Part(numbers, position, views), -1
    try:
        for number, line in zip(numbers, lines):  # noqa: B905 - of one length; Python 3.10
            event = _event(line, tenant, number)
            leaf = leaf_hash(line[:-1])
            part.leaves.append(leaf)
            part.views.add(number, event, leaf)
            _note(part, event, number)
        part.views.close()
    except Failed as failure:
        part.failure = (failure.name, str(failure))
    except (*MISSHAPEN, csv.Error) as error:
        part.failure = ("event_malformed", f"event {number}: {type(error).__name__}: {error}")
    if part.failure is not None:
        part.views = Slice(position, wanted=False)
    return part


def _event(line: bytes, tenant: str, number: int) -> Facts:
    if len(line) > MAX_LINE + 1 or not line.endswith(b"\n"):
        raise Failed("event_not_canonical", f"event {number} is too long or does not end its line")
    try:
        text = line[:-1].decode()
        event: Facts = DECODER.decode(text)
        same = ENCODER.encode(event) == text
    except (ValueError, RecursionError) as error:
        raise Failed("event_not_canonical", f"event {number}: {error}") from error
    if not same:
        raise Failed("event_not_canonical", f"event {number} is not written as it must be")
    if event.get("tenant", "system") != tenant:
        raise Failed("event_foreign", f"event {number} is not of this log")
    return event


def _note(part: Part, event: Facts, number: int) -> None:
    at = micros_of(event["time"]) / 1_000_000
    if at < part.latest - BACKWARDS:
        raise Failed("clock_went_back", f"event {number} is {part.latest - at:.0f} s older than one before it")
    part.earliest, part.latest = min(at, part.earliest), max(at, part.latest)
    part.first, part.last = part.first or event["time"], event["time"]
    kind, ident, intent = event["type"], event["id"], event.get("intent", "")
    if not isinstance(kind, str) or not isinstance(ident, str) or not isinstance(intent, str):
        raise Failed("event_malformed", f"event {number}: its type, id or intent is not a text")
    part.types[kind] = part.types.get(kind, 0) + 1
    if kind == "inference.intent":
        part.intents[ident] = at
    elif "intent" in event:
        part.answered.append(intent)
    elif kind == "log.pruned":
        part.pruned[ident] = _texts_of(event, "ranges", RANGE)
    elif kind in ERASING:
        part.erasing[ident] = _texts_of(event, "requests", ".*")


def _texts_of(event: Facts, name: str, form: str) -> list[str]:
    """A list of texts among an event's details."""
    found = event.get("details", {}).get(name, [])
    if not isinstance(found, list) or not all(isinstance(one, str) and re.fullmatch(form, one) for one in found):
        raise ValueError(f"its details have {name} that are none")
    return found


class Events:
    """What was seen of all events, put together in their order."""

    def __init__(self) -> None:
        self.latest = 0.0
        self.first = self.last = ""  # times of the first and the last event, as they are written
        self.open: dict[str, float] = {}  # intents without outcome: event -> time
        self.types: dict[str, int] = {}
        self.pruned: dict[str, list[str]] = {}
        self.erasing: dict[str, list[str]] = {}

    def take(self, part: Part) -> None:
        """The next part."""
        if part.failure is not None:
            raise Failed(*part.failure)
        if part.earliest < self.latest - BACKWARDS:
            raise Failed("clock_went_back", f"after event {part.numbers[0]} one is older than those before")
        self.latest = max(part.latest, self.latest)
        self.first, self.last = self.first or part.first, part.last or self.last
        for kind, number in part.types.items():
            self.types[kind] = self.types.get(kind, 0) + number
        self.know(part)
        self.open.update(part.intents)
        for intent in part.answered:
            self.open.pop(intent, None)

    def know(self, part: Part) -> None:
        """What its events tell of others that are gone."""
        self.pruned.update(part.pruned)
        self.erasing.update(part.erasing)

    def unanswered(self) -> list[str]:
        """Intents that have had time for an outcome, and have none."""
        return [event for event, at in self.open.items() if at < self.latest - OPEN]


def check_parts(bundle: Bundle, digest: Any, manifest: Facts, numbers: Numbers, views: bool) -> Iterator[Part]:
    """Every event of the export, in order; many are looked at by several processes at once, which also read the other
    large files, for their digests."""
    tenant = manifest["origin"].rsplit("/", 1)[-1]
    workers = min(4, os.cpu_count() or 1) if manifest["events"] >= MANY else 1
    waiting: deque[Any] = deque()
    position, apart = 0, [name for name in bundle.large(BLOCK) if name != EVENTS]
    with (
        multiprocessing.Pool(workers) if workers > 1 else contextlib.nullcontext() as pool,
        bundle.open(EVENTS) as file,
    ):
        digests = {name: pool.apply_async(digest_apart, (bundle.path, name)) for name in apart} if pool else {}
        while lines := _block(file):
            digest.update(b"".join(lines))
            given = (tenant, numbers.take(len(lines)), lines, position, views)
            position += len(lines)
            if pool is None:
                yield check_part(*given)
            else:
                waiting.append(pool.apply_async(check_part, given))
                if len(waiting) > 2 * workers:  # no more lies in memory than the processes need to be busy
                    yield waiting.popleft().get()
        while waiting:
            yield waiting.popleft().get()
        bundle.digests.update({name: found for name, one in digests.items() if (found := one.get())})


def _block(file: IO[bytes]) -> list[bytes]:
    """The next lines, about BLOCK bytes of them. One that is too long comes cut off: memory never holds all of it."""
    lines: list[bytes] = []
    size = 0
    while size < BLOCK and (line := file.readline(MAX_LINE + 2)):
        lines.append(line)
        size += len(line) + EACH
    return lines
