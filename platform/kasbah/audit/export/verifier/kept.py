"""What others have kept of the log: witnesses' signatures, earlier checkpoints, receipts."""

from __future__ import annotations

import base64
import json

from kasbah.audit.export.verifier.archive import Bundle
from kasbah.audit.export.verifier.failure import Facts, Failed
from kasbah.audit.export.verifier.log import leaves_given, tile_name
from kasbah.audit.export.verifier.notes import Key, read_checkpoint, signed_by
from kasbah.audit.export.verifier.tree import Tree, check_consistency


def check_witnesses(note: str, witnesses: list[Key], wanted: int) -> int:
    """Enough of the known witnesses saw this checkpoint; each counts once."""
    _, found = signed_by(note, witnesses, "checkpoint")
    names = {key.public for key in found}
    if len(names) < wanted:
        raise Failed("too_few_witnesses", f"{len(names)} of the witnesses given signed the checkpoint, {wanted} must")
    return len(names)


def check_previous(bundle: Bundle, key: Key, size: int, root: bytes, kept: str | None) -> None:
    """The log begins with what was kept from an earlier export, or with the earlier checkpoint in this one."""
    if kept is None:
        if "checkpoint.previous" in bundle.infos:
            proof = [base64.b64decode(line) for line in bundle.text("consistency.txt").split()]
            check_consistency(*read_checkpoint(bundle.text("checkpoint.previous"), key, "previous"), size, root, proof)
        return
    old, old_root = read_checkpoint(kept, key, "the checkpoint that was kept")
    tree = Tree()
    whole = min(old, size)
    for index in range((whole + 255) // 256):
        data = bundle.read(tile_name(index, min(256, size - index * 256)))
        for at in range(0, min(256, whole - index * 256) * 32, 32):
            tree.add(data[at : at + 32])
    if old > size:
        raise Failed("history_rewritten", f"a log of {old} events was kept, and this one has {size}")
    if tree.root() != old_root:
        name = "split_view" if old == size else "history_rewritten"
        raise Failed(name, f"the log does not begin with the log of {old} events that was kept")


def check_receipts(bundle: Bundle, manifest: Facts, tokens: list[str]) -> None:
    """Each audit receipt (the header kasbah-audit-receipt) that a user kept is about an event of this export."""
    if not tokens:
        return
    leaves = {leaf.hex() for leaf in leaves_given(bundle)}
    for token in tokens:
        try:
            body = token.split(".")[1]
            said = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            leaf, origin = said["leaf"], said["origin"]
        except (IndexError, ValueError, KeyError) as error:
            raise Failed("receipt_malformed", f"not an audit receipt: {token[:60]!r}") from error
        if origin != manifest["origin"]:
            raise Failed("receipt_foreign", f"the receipt is about the log {origin}")
        if leaf not in leaves:
            raise Failed("receipt_without_leaf", f"event {said.get('event')} was promised and is not in the log")
