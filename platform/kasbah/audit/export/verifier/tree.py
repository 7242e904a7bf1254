"""The Merkle tree of RFC 6962, and proofs in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from kasbah.audit.export.verifier.failure import Failed


def leaf_hash(data: bytes) -> bytes:
    """Hash of an entry."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two subtrees."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """Complete subtrees as (level, hash), the largest first; what is added merges with its equal."""

    def __init__(self) -> None:
        self.nodes: list[tuple[int, bytes]] = []
        self.size = 0

    def add(self, digest: bytes, level: int = 0) -> None:
        """A complete subtree to the right of all that is there."""
        if self.size % (1 << level):
            raise Failed("range_malformed", "a subtree does not lie where its size lets it lie")
        self.size += 1 << level
        nodes = self.nodes
        while nodes and nodes[-1][0] == level:
            digest = node_hash(nodes.pop()[1], digest)
            level += 1
        nodes.append((level, digest))

    def root(self) -> bytes:
        """Root of all."""
        root: bytes | None = None
        for _, digest in reversed(self.nodes):
            root = digest if root is None else node_hash(digest, root)
        return root if root is not None else hashlib.sha256(b"").digest()


def levels(start: int, end: int) -> Iterator[int]:
    """Levels of the complete subtrees that cover [start, end), from the left."""
    while start < end:
        level = min((start & -start).bit_length() - 1 if start else 63, (end - start).bit_length() - 1)
        yield level
        start += 1 << level


def check_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: list[bytes]) -> None:
    """The later tree begins with the earlier one (RFC 9162, section 2.1.4.2)."""
    wrong = Failed("history_rewritten", f"the log of {size} events does not begin with the log of {old} that was kept")
    if old > size:
        raise Failed("history_rewritten", f"a log of {old} events was kept, and this one has {size}")
    if old in (0, size):
        if old == size and old_root != root:
            raise Failed("split_view", f"two different logs of {size} events were signed")
        return
    hashes = list(proof) if old & (old - 1) else [old_root, *proof]
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    if not hashes:
        raise wrong
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise wrong
        if at & 1 or at == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        at, last = at >> 1, last >> 1
    if last or before != old_root or after != root:
        raise wrong


def check_inclusion(leaf: bytes, index: int, size: int, root: bytes, proof: list[bytes]) -> None:
    """The leaf stands at `index` (RFC 9162, section 2.1.3.2)."""
    at, last, digest = index, size - 1, leaf
    for sibling in proof:
        if last <= 0:
            raise Failed("proof_invalid", "the inclusion proof is too long for this tree")
        if at & 1 or at == last:
            digest = node_hash(sibling, digest)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            digest = node_hash(digest, sibling)
        at, last = at >> 1, last >> 1
    if not 0 <= index < size or last or digest != root:
        raise Failed("proof_invalid", "the inclusion proof does not lead from the event to the signed root")
