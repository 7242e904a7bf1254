"""The documents that come with the dossier of a request."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.events import ENCODER
from kasbah.audit.export.verifier.failure import Facts, Failed
from kasbah.audit.export.verifier.notes import Key, checkpoint_of, signed_by
from kasbah.audit.export.verifier.proofs import read_proof
from kasbah.audit.export.verifier.succession import LogKeys
from kasbah.audit.export.verifier.tree import check_inclusion, leaf_hash


def check_dossier(bundle: Bundle, keys: LogKeys) -> list[str]:
    """The documents that a digest names are those that it names, and the events of the installation's log are in it.
    Returns lines to print."""
    names = [name for name in sorted(bundle.infos) if name.startswith("dossier/")]
    events = 0
    for name in names:
        if name.startswith("dossier/system/"):
            if name.endswith(".json"):
                check_system(bundle, name.removesuffix(".json"), keys)
                events += 1
        elif not as_named(name, json.loads(bundle.read(name))):
            raise Failed("dossier_differs", f"{name} is not what its digest names")
    lines = [f"dossier    {len(names) - 2 * events} documents"] if names else []
    return [*lines, f"           {events} events of the installation's log about the model"] if events else lines


def as_named(name: str, said: Facts) -> bool:
    """Whether a document has the digest that it should have."""
    if name.startswith("dossier/model-"):
        return name == f"dossier/model-{digest_of(sorted(said['manifest'], key=lambda one: one['path']))}.json"
    return not name.startswith("dossier/policy-") or digest_of(said["document"]) == said["digest"]


def check_system(bundle: Bundle, path: str, keys: LogKeys) -> None:
    """An event of the installation's log, which is signed by the same keys under its own name."""
    origin = keys.name.rsplit("/", 1)[0] + "/system"
    index, hashes, note = read_proof(bundle.text(f"{path}.tlog-proof"))
    text, found = signed_by(note, [named(key, origin) for key in keys.keys], path)
    if not found:
        raise Failed("unknown_key", f"{path}: signed by none of the keys that are known")
    size, root = checkpoint_of(text, origin, path)
    if not re.fullmatch(f"dossier/system/{index}", path):
        raise Failed("proof_invalid", f"{path} is about another event")
    check_inclusion(leaf_hash(bundle.read(f"{path}.json")), index, size, root, hashes)


def named(key: Key, name: str) -> Key:
    """The same key as it signs another log."""
    raw = bytes([key.type]) + key.public
    ident = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    return Key(f"{name}+{ident.hex()}+{base64.b64encode(raw).decode()}")


def digest_of(value: object) -> str:
    """SHA-256 of the canonical form."""
    return hashlib.sha256(ENCODER.encode(value).encode()).hexdigest()
