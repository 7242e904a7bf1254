"""Opened content is what the events committed to, and what is not there is said to be erased."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.events import Events
from kasbah.audit.export.verifier.failure import Facts, Failed


def check_content(bundle: Bundle, manifest: Facts, events: Events) -> list[str]:
    """Every part that was to be opened is there as it was committed to (docs/auditor/content.md), or is said to be
    erased, by an event of the log, or to be unopened for a reason. Returns lines to print."""
    files = {name for name in manifest["files"] if name.startswith("content/")}
    erased, reasons = read_erasures(bundle, events, keep=bool(files or manifest["opened"]))
    lines = [f"erased     {number} parts of requests: {reason}" for reason, number in sorted(reasons.items())]
    if not files and not manifest["opened"]:
        return lines
    unopened = read_unopened(bundle) if "content/unopened.json" in files else {}
    files.discard("content/unopened.json")
    committed = read_commitments(bundle)
    gone = {request for requests in events.erasing.values() for request in requests}
    for name in sorted(files):
        told = "told by an event" if name.split("/")[1].rsplit(".", 2)[0] in gone else ""
        check_opened(bundle, name, committed, erased.get(name, told))
    for name in committed:
        wanted = name.rsplit(".", 2)[1] in manifest["opened"]
        if wanted and name not in files and name not in erased and name not in unopened:
            raise Failed("content_missing", f"{name} was to be opened, and nothing says why it is not there")
    lines += [f"unopened   {name}: {reason}" for name, reason in sorted(unopened.items())]
    return [*lines, f"content    {len(files)} parts opened, each as it was committed to"]


def check_opened(bundle: Bundle, name: str, committed: dict[str, str], erased: str) -> None:
    """HMAC-SHA256 of the bytes under the opening is the commitment; of some content the opening alone was kept.

    `erased`: why it was erased; with `level_commitment` the opening stays.
    """
    opened = json.loads(bundle.read(name))
    if erased and (erased != "level_commitment" or opened["bytes"] is not None):
        raise Failed("content_survives_erasure", f"{name} was erased and is still there")
    key = base64.b64decode(opened["opening"])
    if name not in committed or name != f"content/{opened['request_id']}.{opened['part']}.json":
        raise Failed("content_mismatch", f"{name} is of no request that is shown")
    if opened["bytes"] is not None:
        made = hmac.new(key, base64.b64decode(opened["bytes"]), hashlib.sha256).hexdigest()
        if made != committed[name]:
            raise Failed("content_mismatch", f"{name} is not what was committed to")


def read_commitments(bundle: Bundle) -> dict[str, str]:
    """What events commit to, by the name of the file that would open it."""
    committed: dict[str, str] = {}
    with bundle.open("events.jsonl") as file:
        for line in file:
            event = json.loads(line)
            for part, value in event.get("commitments", {}).items():
                committed[f"content/{event.get('request_id')}.{part}.json"] = value
    return committed


def read_erasures(bundle: Bundle, events: Events, *, keep: bool) -> tuple[dict[str, str], dict[str, int]]:
    """What was erased and why, by the name of the file that would open it (only with `keep`), and how much of it."""
    erased: dict[str, str] = {}
    reasons: dict[str, int] = {}
    if "erasures.jsonl" not in bundle.infos:
        return erased, reasons
    with bundle.open("erasures.jsonl") as file:
        for line in file:
            said = json.loads(line)
            reason = said["reason"]
            if said["event"] not in events.erasing:
                raise Failed("erasure_unproven", f"the log holds no event {said['event']} that tells of an erasure")
            reasons[reason] = reasons.get(reason, 0) + 1
            if keep:
                erased[f"content/{said['request_id']}.{said['part']}.json"] = reason
    return erased, reasons


def read_unopened(bundle: Bundle) -> dict[str, str]:
    """What could not be opened and why, by the name of the file that would open it."""
    said = json.loads(bundle.read("content/unopened.json"))
    return {f"content/{one['request_id']}.{one['part']}.json": one["reason"] for one in said}
