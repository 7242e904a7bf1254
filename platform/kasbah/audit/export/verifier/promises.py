"""Audit receipts that users kept (the header kasbah-audit-receipt): each promises one event by a time.

That a promise was broken is said only where it is certain: of a whole log that ends after that time. What an export
merely does not show, it does not show.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kasbah.audit.export.verifier.archive import MAX_LINE, Bundle
from kasbah.audit.export.verifier.events import Events
from kasbah.audit.export.verifier.failure import Facts, Failed, printable, readable, reading
from kasbah.audit.export.verifier.kept import has_tiles
from kasbah.audit.export.verifier.log import leaves_given, read_tile, shown_numbers
from kasbah.audit.export.verifier.parquet import micros_of
from kasbah.audit.export.verifier.succession import LogKeys
from kasbah.audit.export.verifier.tokens import AUDIT_RECEIPT, read_token
from kasbah.audit.export.verifier.tree import Tree, leaf_hash

Places = dict[bytes, int]  # leaf hash -> index


class Promise(NamedTuple):
    """What a receipt says: the event, its leaf hash, until when it would be in the log."""

    event: str
    leaf: bytes
    deadline: str


def check_receipts(bundle: Bundle, manifest: Facts, keys: LogKeys, events: Events, tokens: list[str]) -> list[str]:
    """Each promise was kept, as far as the export can tell. Returns lines to print."""
    promises = [read_promise(token, manifest["origin"], keys) for token in tokens]
    if not promises:
        return []
    wanted = {promise.leaf for promise in promises}
    shown = places_shown(bundle, manifest, wanted)
    logged: Places = {}
    if wanted - shown.keys() and has_tiles(bundle):
        logged = places_logged(bundle, manifest, wanted)
    lines, missing = [], []
    for promise in promises:
        if promise.leaf in shown:
            lines.append(f"receipt    {promise.event}: it is here, event {shown[promise.leaf]} of the log")
        elif promise.leaf in logged:
            where = f"it is in the log, event {logged[promise.leaf]}, but not in this export"
            lines.append(f"receipt    {promise.event}: {where}: ask for the period until {readable(promise.deadline)}")
        else:
            missing.append(explain_missing(bundle, promise, manifest, events))
    for failure in sorted(missing, key=lambda failure: failure.name != "receipt_without_leaf"):
        raise failure
    return lines


def read_promise(token: str, origin: str, keys: LogKeys) -> Promise:
    """What a receipt says that one of the log's keys signed."""
    try:
        said = read_token(token, AUDIT_RECEIPT, [key.public for key in keys.keys])
    except Failed as failure:
        raise Failed(failure.name, f"the receipt: {failure}") from failure
    event, leaf, deadline = (str(said.get(name)) for name in ("event", "leaf", "deadline"))
    if not re.fullmatch("[0-9a-f]{64}", leaf):
        raise Failed("receipt_malformed", "the receipt has no leaf hash")
    if said.get("origin") != origin:
        raise Failed("receipt_foreign", f"the receipt is about the log {said.get('origin')}")
    return Promise(printable(event), bytes.fromhex(leaf), deadline)


def places_shown(bundle: Bundle, manifest: Facts, wanted: set[bytes]) -> Places:
    """Where the events that are shown stand in the log, as events or as evidence."""
    shown = zip(shown_numbers(bundle, manifest), leaves_given(bundle))  # noqa: B905 - the root holds
    found = {leaf: number for number, leaf in shown if leaf in wanted}
    for path in manifest["files"]:
        if (match := re.fullmatch("evidence/([0-9]{1,16})[.]json", path)) is not None:
            leaf = leaf_hash(bundle.read(path, MAX_LINE))
            if leaf in wanted:
                found[leaf] = int(match[1])
    return found


def places_logged(bundle: Bundle, manifest: Facts, wanted: set[bytes]) -> Places:
    """Where they stand in the whole log, of which the tiles have every leaf; they give the signed root."""
    tree, found, size = Tree(), {}, manifest["size"]
    for index in range((size + 255) // 256):
        data = read_tile(bundle, index, size)
        for at in range(0, len(data), 32):
            leaf = data[at : at + 32]
            if leaf in wanted:
                found[leaf] = tree.size
            tree.add(leaf)
    if tree.root().hex() != manifest["root"]:
        raise Failed("root_mismatch", "the tiles do not give the root that was signed")
    return found


def explain_missing(bundle: Bundle, promise: Promise, manifest: Facts, events: Events) -> Failed:
    """What it means that an event is not found: a broken promise only where every event of its time is here."""
    what = f"event {promise.event} was promised until {readable(promise.deadline)}"
    proof = f"or for its own proof (audit-events/{promise.event}/proof/)"
    if manifest["selection"]["kind"] != "range" or not has_tiles(bundle):
        why = f"this export shows a {manifest['selection']['kind']} and not the whole log"
        return Failed("receipt_not_in_export", f"{what} and is not in this export: {why}; ask for a period, {proof}")
    with reading("the receipt's deadline", "receipt_malformed"):
        deadline = micros_of(promise.deadline)
    if not events.last or micros_of(events.last) <= deadline:
        until = f"known until {readable(events.last)}" if events.last else "of a time that no event shows"
        why = f"its log of {manifest['size']} events is {until}"
        return Failed(
            "receipt_not_in_export",
            f"{what} and is not in this export: {why}; ask for one of the whole log that was made later, {proof}",
        )
    return Failed(
        "receipt_without_leaf",
        f"{what}, and the whole log of {manifest['size']} events, which goes on until {readable(events.last)} at least,"
        " does not have it",
    )
