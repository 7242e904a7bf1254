"""The documents that come with the dossier of a request."""

from __future__ import annotations

import base64
import hashlib

from kasbah.audit.export.verifier.archive import MAX_LINE, Bundle
from kasbah.audit.export.verifier.documents import read_json
from kasbah.audit.export.verifier.events import ENCODER
from kasbah.audit.export.verifier.failure import Facts, Failed, reading
from kasbah.audit.export.verifier.notes import Key, checkpoint_of, signed_by
from kasbah.audit.export.verifier.proofs import read_proof
from kasbah.audit.export.verifier.succession import LogKeys
from kasbah.audit.export.verifier.tokens import TICKET, WORKERS_RECEIPT, read_base64url, read_token
from kasbah.audit.export.verifier.tree import check_inclusion, leaf_hash

DIGESTED = ("dossier/model-", "dossier/policy-")


def check_dossier(bundle: Bundle, keys: LogKeys) -> list[str]:
    """The documents that a digest names are those that it names, the events of the installation's log are in it, and
    receipts are what they say of themselves. Returns lines to print."""
    names = [name for name in sorted(bundle.infos) if name.startswith("dossier/")]
    documents = [name for name in names if not name.startswith("dossier/system/")]
    events = [name for name in names if name.startswith("dossier/system/") and name.endswith(".json")]
    digested = receipts = 0
    failing: list[str] = []
    for name in events:
        check_system(bundle, name.removesuffix(".json"), keys)
    for name in documents:
        with reading(name):
            said = read_json(bundle.read(name), name)
            if name.startswith("dossier/receipt-"):
                failing += check_workers_receipt(name, said)
                receipts += 1
            elif not as_named(name, said):
                raise Failed("dossier_differs", f"{name} is not what its digest names")
            else:
                digested += name.startswith(DIGESTED)
    if not documents and not events:
        return []
    others = len(documents) - digested - receipts
    how = f"{digested} compared with their digests, {receipts} with the keys that they bring"
    lines = [f"dossier    {len(documents)} documents: {how}, {others} as they were signed"]
    lines += failing
    if receipts:
        lines.append("           Whose keys those are was NOT CHECKED: verify_receipt.py does, with keys of your own.")
    return [*lines, f"           {len(events)} events of the installation's log about the model"] if events else lines


def check_workers_receipt(name: str, said: Facts) -> list[str]:
    """A check that the document itself says to fail is told; one that it says to hold must hold. Returns lines."""
    told = {one["name"]: (one["holds"], str(one["reason"])) for one in said.get("checks", [])}
    worker = [read_base64url(said["worker"]["public_key"])]
    control = [read_base64url(key) for key in said["control_plane_keys"].values()]
    for check, token, purpose, keys in (
        ("receipt_signature", said["receipt"], WORKERS_RECEIPT, worker),
        ("ticket_signature", said["ticket"], TICKET, control),
    ):
        try:
            read_token(token, purpose, keys)
        except Failed as failure:
            if told.get(check, (False,))[0]:
                raise Failed("dossier_differs", f"{name} says that {check} holds: {failure}") from failure
            told.setdefault(check, (False, str(failure)))
    return [f"           {name}: CHECK FAILED {check}: {why}" for check, (holds, why) in told.items() if not holds]


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
    if path != f"dossier/system/{index}":
        raise Failed("proof_invalid", f"{path} is about another event")
    check_inclusion(leaf_hash(bundle.read(f"{path}.json", MAX_LINE)), index, size, root, hashes)


def named(key: Key, name: str) -> Key:
    """The same key as it signs another log."""
    raw = bytes([key.type]) + key.public
    ident = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4]
    return Key(f"{name}+{ident.hex()}+{base64.b64encode(raw).decode()}")


def digest_of(value: object) -> str:
    """SHA-256 of the canonical form."""
    return hashlib.sha256(ENCODER.encode(value).encode()).hexdigest()
