"""Proofs of single events (C2SP tlog-proof), and the events that an export brings to show why others are gone."""

from __future__ import annotations

import base64
import re

from kasbah.audit.export.verifier.archive import MAX_LINE, Bundle
from kasbah.audit.export.verifier.events import Part, check_part
from kasbah.audit.export.verifier.failure import Facts, Failed
from kasbah.audit.export.verifier.notes import COUNT
from kasbah.audit.export.verifier.tree import check_inclusion, leaf_hash

LONGEST = 64  # lines of a proof after its first
PROOFS = 1_000  # events of a selection up to which each has a proof of its own


def read_proof(text: str) -> tuple[int, list[bytes], str]:
    """(index, hashes, checkpoint) of a `.tlog-proof`."""
    head, _, note = text.partition("\n\n")
    lines = head.split("\n")
    if lines[0] != "c2sp.org/tlog-proof@v1" or len(lines) < 2:
        raise Failed("proof_invalid", "not a tlog-proof")
    rest = lines[2:] if lines[1].startswith("extra ") else lines[1:]
    match = re.fullmatch(f"index ({COUNT})", rest[0]) if rest else None
    if match is None or len(rest) > LONGEST:
        raise Failed("proof_invalid", "the proof has no index, or more hashes than a tree has levels")
    try:
        return int(match[1]), [base64.b64decode(line, validate=True) for line in rest[1:]], note
    except ValueError as error:
        raise Failed("proof_invalid", "a hash of the proof is not base64") from error


def check_own(bundle: Bundle, path: str, index: int, leaf: bytes, signed: tuple[int, bytes]) -> None:
    """The export's proof at `path` leads from the leaf at `index` to the root of the export's own checkpoint,
    which is of this size and root."""
    number, hashes, note = read_proof(bundle.text(path))
    if number != index or note != bundle.text("checkpoint"):
        raise Failed("proof_invalid", f"{path} is about another event or another tree")
    check_inclusion(leaf, index, *signed, hashes)


def check_evidence(bundle: Bundle, manifest: Facts, root: bytes) -> list[Part]:
    """Events of the log that are not among those shown, each with its proof."""
    tenant, found = manifest["origin"].rsplit("/", 1)[-1], []
    for path in sorted(manifest["files"]):
        match = re.fullmatch(f"evidence/({COUNT})[.]json", path)
        if match is not None:
            index, data = int(match[1]), bundle.read(path, MAX_LINE)
            check_own(bundle, f"evidence/{index}.tlog-proof", index, leaf_hash(data), (manifest["size"], root))
            part = check_part(tenant, range(index, index + 1), [data + b"\n"])
            if part.failure is not None:
                raise Failed(*part.failure)
            found.append(part)
    return found
