"""Opened content is what the events committed to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.failure import Facts, Failed


def check_content(bundle: Bundle, manifest: Facts) -> int:
    """Opened content is what the events committed to: HMAC-SHA256 under the opening (docs/auditor/content.md)."""
    names = [name for name in manifest["files"] if name.startswith("content/")]
    if not names:
        return 0
    committed: dict[str, str] = {}
    erased: set[str] = set()
    with bundle.open("events.jsonl") as file:
        for line in file:
            event = json.loads(line)
            for part, value in event.get("commitments", {}).items():
                committed[f"content/{event.get('request_id')}.{part}.json"] = value
            if event["type"] == "content.erased":
                erased.update(event.get("details", {}).get("requests", []))
    for name in names:
        opened = json.loads(bundle.read(name))
        value, key = base64.b64decode(opened["bytes"]), base64.b64decode(opened["opening"])
        if opened.get("request_id") in erased:
            raise Failed("content_survives_erasure", f"{name} was erased and is still there")
        if hmac.new(key, value, hashlib.sha256).hexdigest() != committed.get(name):
            raise Failed("content_mismatch", f"{name} is not what was committed to")
    return len(names)
