"""What the caller gives: texts, files, answers of the API as they came, earlier exports."""

from __future__ import annotations

import os.path
import re
from contextlib import closing
from pathlib import Path

from kasbah.audit.export.verifier.archive import MAX_TEXT, Bundle
from kasbah.audit.export.verifier.documents import read_json
from kasbah.audit.export.verifier.events import ENCODER
from kasbah.audit.export.verifier.failure import Failed
from kasbah.audit.export.verifier.notes import Key

RECEIPT_HEADER = re.compile(r"^kasbah-audit-receipt:[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)


def read_given(path: str, member: str = "") -> bytes:
    """A small file, also a pipe; of an export its file `member`. Raises OSError, Failed."""
    with Path(path).open("rb") as file:
        data = file.read(MAX_TEXT + 1)
    if member and data.startswith(b"PK"):
        with closing(Bundle(path)) as bundle:
            return bundle.read(member, MAX_TEXT)
    if len(data) > MAX_TEXT:
        raise Failed("document_malformed", f"{path} is larger than such a file is")
    return data


def given_text(path: str, field: str = "", member: str = "") -> str:
    """The text of a file; of an answer of the API its `field`; of an export its file `member`."""
    data = read_given(path, member)
    if field and data.lstrip()[:1] == b"{":
        answer = read_json(data, path)
        if not isinstance(answer.get(field), str):
            raise Failed("document_malformed", f"{path}: it has no {field}")
        return str(answer[field])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Failed("document_malformed", f"{path} is not UTF-8") from error


def is_there(path: str) -> bool:
    """Whether there is such a file; a key or a receipt that is written out is none, and may be too long for a name."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises where a name is too long


def given_key(text: str, types: tuple[int, ...]) -> Key:
    """A key, written out or in a file, also as the answer of `audit-log/`."""
    return Key(given_text(text, "key") if is_there(text) else text, types)


def given_successions(paths: list[str]) -> list[str]:
    """Notes of changes of keys, each in a file, or all in the answer of `audit-log/`."""
    notes: list[str] = []
    for path in paths:
        data = read_given(path)
        if data.lstrip()[:1] != b"{":
            notes.append(data.decode("utf-8", "replace"))
            continue
        found = read_json(data, path).get("successions")
        if not isinstance(found, list) or not all(isinstance(note, str) for note in found):
            raise Failed("document_malformed", f"{path}: it has no successions")
        notes += found
    return notes


def given_event(path: str) -> bytes:
    """The exact bytes of an event; of the answer of `audit-events/` they are made again."""
    data = read_given(path).rstrip(b"\n")
    if data.startswith(b"{") and b'"leaf_hash"' in data:
        answer = read_json(data, path)
        if isinstance(answer.get("event"), dict):
            return ENCODER.encode(answer["event"]).encode()
    return data


def given_receipt(text: str) -> str:
    """An audit receipt: the token itself, a file with it, or the headers of an answer as they were saved."""
    if not is_there(text) and text.count(".") == 2:
        return text
    said = given_text(text)
    if (header := RECEIPT_HEADER.search(said)) is not None:
        return header[1]
    if said.lstrip()[:1] == "{" or said[:2] == "PK":
        raise Failed(
            "receipt_malformed",
            f"{text} is no audit receipt (the header kasbah-audit-receipt); a worker's receipt is checked with"
            " verify_receipt.py",
        )
    return said.strip()
