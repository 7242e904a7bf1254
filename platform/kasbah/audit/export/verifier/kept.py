"""What others have kept of the log: witnesses' signatures, earlier checkpoints, receipts."""

from __future__ import annotations

import base64
import hashlib
import json

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.ed25519 import ed25519_holds
from kasbah.audit.export.verifier.failure import Facts, Failed
from kasbah.audit.export.verifier.log import leaves_given, tile_name
from kasbah.audit.export.verifier.notes import Key, signed_by
from kasbah.audit.export.verifier.succession import LogKeys
from kasbah.audit.export.verifier.tree import Tree, check_consistency

Head = tuple[int, bytes]  # size and root
RECEIPT = b"kasbah-audit-receipt-v1\n"  # what the signature of a receipt is for


def check_witnesses(note: str, witnesses: list[Key], wanted: int) -> int:
    """Enough of the known witnesses saw this checkpoint; each counts once."""
    _, found = signed_by(note, witnesses, "checkpoint")
    names = {key.public for key in found}
    if len(names) < wanted:
        raise Failed("too_few_witnesses", f"{len(names)} of the witnesses given signed the checkpoint, {wanted} must")
    return len(names)


def check_turns(bundle: Bundle, keys: LogKeys, size: int, root: bytes) -> None:
    """The log begins with what each of its keys signed last."""
    for number, (turn, turn_root) in enumerate(keys.turns):
        if turn <= size and not has_tiles(bundle):
            check_consistency(turn, turn_root, size, root, read_hashes(bundle, f"turns/{number:04}.txt"))
        elif turn <= size and root_of_first(bundle, turn, size) != turn_root:
            raise Failed("history_rewritten", f"the log does not begin with the {turn} events of an earlier key")


def has_tiles(bundle: Bundle) -> bool:
    """Whether the whole tree is there; a selection has proofs instead."""
    return any(name.startswith("tile/") for name in bundle.infos)


def read_hashes(bundle: Bundle, path: str) -> list[bytes]:
    """A consistency proof."""
    return [base64.b64decode(line) for line in bundle.text(path).split()]


def root_of_first(bundle: Bundle, old: int, size: int) -> bytes:
    """Root of the first `old` events of a log of `size`, by its tiles."""
    tree = Tree()
    for index in range((old + 255) // 256):
        data = bundle.read(tile_name(index, min(256, size - index * 256)))
        for at in range(0, min(256, old - index * 256) * 32, 32):
            tree.add(data[at : at + 32])
    return tree.root()


def read_previous(bundle: Bundle, keys: LogKeys, earlier: LogKeys, signed: Head) -> Head:
    """(size, root) of the earlier checkpoint that the export brings and is consistent with; of no event without one.

    `earlier` are the keys of what was kept, which may be before one that was revoked.
    """
    if "checkpoint.previous" not in bundle.infos:
        return 0, b""
    data = bundle.text("checkpoint.previous")
    try:
        found = keys.checkpoint(data, "previous")
    except Failed:
        if earlier is keys:
            raise
        found = earlier.checkpoint(data, "previous")
    check_consistency(*found, *signed, read_hashes(bundle, "consistency.txt"))
    return found


def check_previous(bundle: Bundle, previous: Head, signed: Head, kept: Head) -> None:
    """The log begins with what was kept from an earlier export. All are (size, root)."""
    (size, root), (old, old_root) = signed, kept
    if old > size:
        raise Failed("history_rewritten", f"a log of {old} events was kept, and this one has {size}")
    if old == size:
        found = root
    elif has_tiles(bundle):
        found = root_of_first(bundle, old, size)
    elif previous[0] == old:
        found = previous[1]
    else:
        raise Failed(
            "consistency_missing",
            f"the export proves nothing about the log of {old} events; ask for one with --since-size {old}",
        )
    if found != old_root:
        name = "split_view" if old == size else "history_rewritten"
        raise Failed(name, f"the log does not begin with the log of {old} events that was kept")


def check_receipts(bundle: Bundle, manifest: Facts, keys: LogKeys, tokens: list[str]) -> None:
    """Each audit receipt (the header kasbah-audit-receipt) that a user kept is about an event of this export."""
    if not tokens:
        return
    leaves = {leaf.hex() for leaf in leaves_given(bundle)}
    for token in tokens:
        try:
            signer, body, signature = token.split(".")
            said = json.loads(_decoded(body))
            leaf, origin, value = said["leaf"], said["origin"], _decoded(signature)
        except (ValueError, KeyError, TypeError) as error:
            raise Failed("receipt_malformed", f"not an audit receipt: {token[:60]!r}") from error
        if origin != manifest["origin"]:
            raise Failed("receipt_foreign", f"the receipt is about the log {origin}")
        known = {hashlib.sha256(key.public).hexdigest()[:16]: key.public for key in keys.keys}
        if signer not in known:
            raise Failed("unknown_key", "the receipt is signed by none of the log's keys that are known")
        if not ed25519_holds(known[signer], RECEIPT + _decoded(body), value):
            raise Failed("signature_invalid", "the receipt's signature does not hold")
        if leaf not in leaves:
            raise Failed("receipt_without_leaf", f"event {said.get('event')} was promised and is not in the log")


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
