"""Opened content is what the events committed to, and what is not there is said to be erased."""

from __future__ import annotations

import hashlib
import hmac
import re

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.documents import read_base64, read_json, read_object
from kasbah.audit.export.verifier.events import DECODER, EVENTS, Events
from kasbah.audit.export.verifier.failure import Facts, Failed, reading

OPENED = {"request_id": str, "part": str, "opening": str}
ERASED = {"request_id": str, "part": str, "reason": str, "event": str}
UNOPENED = "content/unopened.json"
MAC = re.compile("[0-9a-f]{64}")


def check_content(bundle: Bundle, manifest: Facts, events: Events) -> list[str]:
    """Every part that was to be opened is there as it was committed to (docs/auditor/content.md), or is said to be
    erased, by an event of the log, or to be unopened for a reason. Returns lines to print: what was compared, what was
    not, and why."""
    files = {name for name in manifest["files"] if name.startswith("content/")}
    erased, reasons = read_erasures(bundle, events, keep=bool(files or manifest["opened"]))
    lines = [f"erased     {number} parts of requests: {reason}" for reason, number in sorted(reasons.items())]
    if not files and not manifest["opened"]:
        return [*lines, "content    NOT COMPARED: the export was asked for without any"]
    unopened = read_unopened(bundle) if UNOPENED in files else {}
    files.discard(UNOPENED)
    committed = read_commitments(bundle)
    gone = {request for requests in events.erasing.values() for request in requests}
    compared = 0
    for name in sorted(files):
        told = "told by an event" if name.split("/")[1].rsplit(".", 2)[0] in gone else ""
        compared += check_opened(bundle, name, committed, erased.get(name, told))
    for name in committed:
        wanted = name.rsplit(".", 2)[1] in manifest["opened"]
        if wanted and name not in files and name not in erased and name not in unopened:
            raise Failed("content_missing", f"{name} was to be opened, and nothing says why it is not there")
    lines += [f"unopened   {name}: {reason}" for name, reason in sorted(unopened.items())]
    lines.append(
        f"content    {compared} parts opened, each as it was committed to"
        if compared
        else "content    0 parts opened: NOTHING WAS COMPARED"
    )
    if alone := len(files) - compared:
        lines.append(
            f"           {alone} parts NOT COMPARED: their openings alone were kept, without bytes; whoever has the"
            " bytes compares them"
        )
    return lines


def check_opened(bundle: Bundle, name: str, committed: dict[str, str], erased: str) -> bool:
    """HMAC-SHA256 of the bytes under the opening is the commitment; of some content the opening alone was kept.
    Returns whether there were bytes to compare.

    `erased`: why it was erased; with `level_commitment` the opening stays.
    """
    opened = read_object(bundle.read(name), name, OPENED)
    if erased and (erased != "level_commitment" or opened.get("bytes") is not None):
        raise Failed("content_survives_erasure", f"{name} was erased and is still there")
    key = read_base64(opened["opening"], f"{name}, opening")
    if name not in committed or name != f"content/{opened['request_id']}.{opened['part']}.json":
        raise Failed("content_mismatch", f"{name} is of no request that is shown")
    if opened.get("bytes") is None:
        return False
    made = hmac.new(key, read_base64(opened["bytes"], f"{name}, bytes"), hashlib.sha256).hexdigest()
    if made != committed[name]:
        raise Failed("content_mismatch", f"{name} is not what was committed to")
    return True


def read_commitments(bundle: Bundle) -> dict[str, str]:
    """What events commit to, by the name of the file that would open it."""
    committed: dict[str, str] = {}
    with reading("a commitment of an event", "event_malformed"):
        for line in bundle.lines(EVENTS):
            event = DECODER.decode(line.decode())
            for part, value in event.get("commitments", {}).items():
                if not MAC.fullmatch(value):
                    raise ValueError(f"{value[:80]!r} is none")
                committed[f"content/{event.get('request_id')}.{part}.json"] = value
    return committed


def read_erasures(bundle: Bundle, events: Events, *, keep: bool) -> tuple[dict[str, str], dict[str, int]]:
    """What was erased and why, by the name of the file that would open it (only with `keep`), and how much of it."""
    erased: dict[str, str] = {}
    reasons: dict[str, int] = {}
    if "erasures.jsonl" not in bundle.infos:
        return erased, reasons
    for said in bundle.documents("erasures.jsonl", ERASED):
        reason = said["reason"]
        if said["event"] not in events.erasing:
            raise Failed("erasure_unproven", f"the log holds no event {said['event']} that tells of an erasure")
        reasons[reason] = reasons.get(reason, 0) + 1
        if keep:
            erased[f"content/{said['request_id']}.{said['part']}.json"] = reason
    return erased, reasons


def read_unopened(bundle: Bundle) -> dict[str, str]:
    """What could not be opened and why, by the name of the file that would open it."""
    with reading(UNOPENED):
        said = read_json(bundle.read(UNOPENED), UNOPENED)
        return {f"content/{one['request_id']}.{one['part']}.json": str(one["reason"]) for one in said}
