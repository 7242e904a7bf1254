"""Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint, tlog-cosignature)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re

from kasbah.audit.export.verifier.ed25519 import ed25519_holds
from kasbah.audit.export.verifier.failure import Failed

MAX_SIGNATURES = 64
COUNT = "0|[1-9][0-9]{0,15}"  # of events, or the index of one


class Key:
    """A verifier's key, `NAME+ID+KEY` (signed-note, Verifier keys). Type 1 is a log's, type 4 a witness's."""

    def __init__(self, text: str, types: tuple[int, ...] = (1, 4)) -> None:
        try:
            self.name, key_id, material = text.strip().split("+", 2)
            raw = base64.b64decode(material, validate=True)
            self.id, self.type, self.public = bytes.fromhex(key_id), raw[0], raw[1:]
        except (ValueError, IndexError) as error:
            raise Failed("key_malformed", f"not a key of the form NAME+ID+KEY: {text[:80]!r}") from error
        wanted = hashlib.sha256(self.name.encode("utf-8", "replace") + b"\n" + raw).digest()[:4]
        if self.type not in types or len(self.public) != 32 or self.id != wanted:
            raise Failed("key_malformed", f"the key of {self.name} does not fit its id, or is not Ed25519")

    def holds(self, text: str, value: bytes) -> bool:
        """Whether a signature over a note's text is by this key."""
        if self.type == 4:
            text = f"cosignature/v1\ntime {int.from_bytes(value[:8], 'big')}\n" + text
            value = value[8:]
        return ed25519_holds(self.public, text.encode(), value)


def read_note(data: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """The text of a note and its signatures (name, id, value)."""
    text, separator, rest = data.rpartition("\n\n")
    lines = rest.split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise Failed("note_malformed", f"a note has at most {MAX_SIGNATURES} signatures")
    signatures = []
    for line in lines[:-1]:
        match = re.fullmatch("\u2014 ([^ +]+) ([A-Za-z0-9+/=]+)", line)
        try:
            raw = base64.b64decode(match[2], validate=True) if match else b""
        except binascii.Error:
            raw = b""
        if match is None or len(raw) < 5:
            raise Failed("note_malformed", "a signature line is not one")
        signatures.append((match[1], raw[:4], raw[4:]))
    if not separator or lines[-1] or not signatures:
        raise Failed("note_malformed", "a signed note has a text, an empty line and signatures")
    return text + "\n", signatures


def signed_by(data: str, keys: list[Key], what: str) -> tuple[str, set[Key]]:
    """The text of a note, and which of `keys` signed it. A signature of one of them that does not hold fails."""
    text, signatures = read_note(data)
    found: set[Key] = set()
    for name, key_id, value in signatures:
        for key in keys:
            if (key.name, key.id) == (name, key_id):
                if not key.holds(text, value):
                    raise Failed("signature_invalid", f"{what}: the signature of {name} does not hold")
                found.add(key)
    return text, found


def checkpoint_of(text: str, origin: str, what: str) -> tuple[int, bytes]:
    """(size, root) of a checkpoint's text."""
    lines = text.split("\n")
    if len(lines) < 4 or lines[0] != origin or not re.fullmatch(COUNT, lines[1]):
        raise Failed("checkpoint_malformed", f"{what}: it is not a checkpoint of {origin}")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except ValueError:
        root = b""
    if len(root) != 32:
        raise Failed("checkpoint_malformed", f"{what}: its root has not 32 bytes")
    return int(lines[1]), root
