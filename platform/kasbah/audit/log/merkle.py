"""The Merkle tree of RFC 6962 over SHA-256: growing it, proving from it, checking proofs. Pure, without I/O.

Proofs are built from hashes of complete subtrees: `node(level, index)` is the hash over the leaves
[index * 2**level, (index + 1) * 2**level), wherever the caller keeps it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

HASH = 32  # bytes
EMPTY = hashlib.sha256(b"").digest()  # root of the tree without leaves (section 2.1)
Node = Callable[[int, int], bytes]


class BadProof(ValueError):
    """The proof does not show what it should."""


def leaf_hash(data: bytes) -> bytes:
    """Hash of one entry (section 2.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two subtrees (section 2.1)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """Root over a power of two of hashes."""
    level = list(hashes)
    while len(level) > 1:
        level = [node_hash(level[at], level[at + 1]) for at in range(0, len(level), 2)]
    return level[0]


@dataclass(frozen=True, slots=True)
class Frontier:
    """A tree of `size` leaves, reduced to the roots of its complete subtrees, the largest first.

    That is all that appending needs: at most 64 hashes, whatever the size.
    """

    size: int = 0
    roots: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.roots) != self.size.bit_count() or any(len(root) != HASH for root in self.roots):
            raise ValueError(f"{len(self.roots)} roots are not those of a tree of {self.size}")

    @classmethod
    def unpack(cls, size: int, data: bytes) -> Frontier:
        """From the concatenated roots."""
        return cls(size, tuple(data[at : at + HASH] for at in range(0, len(data), HASH)))

    def pack(self) -> bytes:
        """The roots, concatenated."""
        return b"".join(self.roots)

    def extended(self, leaves: Iterable[bytes]) -> Frontier:
        """With more leaf hashes."""
        size, roots = self.size, list(self.roots)
        for leaf in leaves:
            merged, rest = leaf, size
            while rest & 1:
                merged = node_hash(roots.pop(), merged)
                rest >>= 1
            roots.append(merged)
            size += 1
        return Frontier(size, tuple(roots))

    def root(self) -> bytes:
        """Root of the whole tree."""
        if not self.roots:
            return EMPTY
        root = self.roots[-1]
        for left in reversed(self.roots[:-1]):
            root = node_hash(left, root)
        return root


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """The path from leaf `index` to the root of the tree of `size` (section 2.1.1), the leaf's sibling first.

    Raises ValueError when the tree has no such leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    return _path(index, 0, size, node)


def consistency_proof(old: int, size: int, node: Node) -> list[bytes]:
    """What shows that the tree of `size` begins with the tree of `old` (section 2.1.2). Raises ValueError."""
    if not 0 <= old <= size:
        raise ValueError(f"a tree of {size} leaves does not contain one of {old}")
    if old in (0, size):
        return []
    return _subproof(old, 0, size, node, whole=True)


def range_root(start: int, end: int, node: Node) -> bytes:
    """MTH(D[start:end]); `start` is a multiple of the largest power of two below the length, as in every proof."""
    length = end - start
    if length.bit_count() == 1:
        level = length.bit_length() - 1
        return node(level, start >> level)
    split = _split(length)
    return node_hash(range_root(start, start + split, node), range_root(start + split, end, node))


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that an inclusion proof leads to (RFC 9162 section 2.1.3.2). Raises BadProof."""
    if not 0 <= index < size:
        raise BadProof(f"a tree of {size} leaves has no leaf {index}")
    at, last, root = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise BadProof("the inclusion proof is too long")
        if at & 1 or at == last:
            root = node_hash(sibling, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise BadProof("the inclusion proof is too short")
    return root


def check_consistency(old: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """The tree of `size` with `root` begins with the tree of `old` (RFC 9162 section 2.1.4.2). Raises BadProof."""
    if not 0 <= old <= size:
        raise BadProof(f"a tree of {size} leaves does not contain one of {old}")
    if old in (0, size):
        if proof or (old == size and old_root != root):
            raise BadProof("the trees of one size differ" if old else "a proof from the empty tree is empty")
        return
    hashes = list(proof) if old & (old - 1) else [old_root, *proof]
    if not hashes:
        raise BadProof("the consistency proof is empty")
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            raise BadProof("the consistency proof is too long")
        if at & 1 or at == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        at, last = at >> 1, last >> 1
    if last or before != old_root or after != root:
        raise BadProof("the later tree does not begin with the earlier one")


def _split(length: int) -> int:
    """The largest power of two below `length`."""
    return 1 << ((length - 1).bit_length() - 1)


def _path(index: int, start: int, end: int, node: Node) -> list[bytes]:
    if end - start == 1:
        return []
    middle = start + _split(end - start)
    if index < middle:
        return [*_path(index, start, middle, node), range_root(middle, end, node)]
    return [*_path(index, middle, end, node), range_root(start, middle, node)]


def _subproof(old: int, start: int, end: int, node: Node, *, whole: bool) -> list[bytes]:
    """`old` counts from `start`; `whole` says that the verifier knows the root of what lies at `start`."""
    if old == end - start:
        return [] if whole else [range_root(start, end, node)]
    split = _split(end - start)
    middle = start + split
    if old <= split:
        return [*_subproof(old, start, middle, node, whole=whole), range_root(middle, end, node)]
    return [*_subproof(old - split, middle, end, node, whole=False), range_root(start, middle, node)]
