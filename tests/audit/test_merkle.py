"""The tree against an independent computation, and every proof against tampering."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasbah.audit.log import merkle
from kasbah.audit.log.merkle import BadProof, Frontier


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word, over entries."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def entries(count: int) -> list[bytes]:
    return [b"entry %d" % index for index in range(count)]


def tree(data: list[bytes]) -> merkle.Node:
    return lambda level, index: mth(data[index << level : (index + 1) << level])


def test_the_vectors_of_certificate_transparency() -> None:
    # The reference inputs that CT implementations share, and their roots.
    data = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243")]
    data += [bytes.fromhex("5051525354555657"), bytes.fromhex("606162636465666768696a6b6c6d6e6f")]
    frontier = Frontier().extended(merkle.leaf_hash(entry) for entry in data)
    assert frontier.root().hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"
    three = Frontier().extended(merkle.leaf_hash(entry) for entry in data[:3])
    assert three.root().hex() == "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"


@given(st.integers(0, 300), st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_a_tree_grown_in_two_steps_is_the_tree(first: int, more: int) -> None:
    data = entries(first + more)
    leaves = [merkle.leaf_hash(entry) for entry in data]
    before = Frontier().extended(leaves[:first])
    after = Frontier.unpack(before.size, before.pack()).extended(leaves[first:])
    assert (after.size, after.root()) == (len(data), mth(data))


@given(st.integers(1, 200).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
@settings(max_examples=80, deadline=None)
def test_inclusion(size_and_index: tuple[int, int]) -> None:
    size, index = size_and_index
    data = entries(size)
    proof = merkle.inclusion_proof(index, size, tree(data))
    leaf = merkle.leaf_hash(data[index])
    assert merkle.root_from_inclusion(leaf, index, size, proof) == mth(data)
    other = merkle.leaf_hash(b"another entry")
    assert merkle.root_from_inclusion(other, index, size, proof) != mth(data)
    with pytest.raises(BadProof):
        merkle.root_from_inclusion(leaf, index, size, [*proof, leaf])
    if proof:
        with pytest.raises(BadProof):
            merkle.root_from_inclusion(leaf, index, size, proof[:-1])
        swapped = [bytes(32), *proof[1:]]
        assert merkle.root_from_inclusion(leaf, index, size, swapped) != mth(data)


@given(st.integers(0, 200).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size))))
@settings(max_examples=120, deadline=None)
def test_consistency(sizes: tuple[int, int]) -> None:
    size, old = sizes
    data = entries(size)
    proof = merkle.consistency_proof(old, size, tree(data))
    merkle.check_consistency(old, mth(data[:old]), size, mth(data), proof)
    changed = [b"changed", *data[1:]]
    if old > 0:
        with pytest.raises(BadProof):
            merkle.check_consistency(old, mth(changed[:old]), size, mth(data), proof)
        with pytest.raises(BadProof):
            merkle.check_consistency(old, mth(data[:old]), size, mth(changed), proof)
    if proof:
        with pytest.raises(BadProof):
            merkle.check_consistency(old, mth(data[:old]), size, mth(data), proof[:-1])
    with pytest.raises(BadProof):
        merkle.check_consistency(old, mth(data[:old]), size, mth(data), [*proof, bytes(32)])


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no leaf 3"):
        merkle.inclusion_proof(3, 3, tree(entries(3)))
    with pytest.raises(ValueError, match="does not contain"):
        merkle.consistency_proof(4, 3, tree(entries(3)))
    with pytest.raises(BadProof):
        merkle.root_from_inclusion(bytes(32), 0, 0, [])
    with pytest.raises(ValueError, match="not those of a tree"):
        Frontier(3, (bytes(32),))
