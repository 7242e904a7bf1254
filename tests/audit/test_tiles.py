"""Tiles: their names, and a tree read from them equals the tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kasbah.audit.log import merkle
from kasbah.audit.log.merkle import Frontier
from kasbah.audit.log.tiles import TileFolder, TileMissing, TileTree, name, width_of


def leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(b"%d" % index) for index in range(count)]


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 1234067, 256, "tile/0/x001/x234/067"),  # the example of tlog-tiles
        (1, 999, 17, "tile/1/999.p/17"),
        (2, 1000, 256, "tile/2/x001/000"),
    ],
)
def test_names(level: int, index: int, width: int, path: str) -> None:
    assert name(level, index, width) == path


def test_widths_of_the_specifications_example() -> None:
    size = 70_000
    assert [width_of(0, 272, size), width_of(0, 273, size), width_of(0, 274, size)] == [256, 112, 0]
    assert [width_of(1, 0, size), width_of(1, 1, size), width_of(2, 0, size)] == [256, 17, 1]


@given(st.lists(st.integers(0, 600), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_a_tree_read_from_tiles_is_the_tree(tmp_path_factory: pytest.TempPathFactory, steps: list[int]) -> None:
    folder = tmp_path_factory.mktemp("tiles")
    files, size = TileFolder(folder), 0
    whole = leaves(sum(steps))
    for step in steps:
        files.extend(size, whole[size : size + step])
        size += step
    root = Frontier().extended(whole).root()
    tree = TileTree(size, files.read)
    for index in {0, size // 2, size - 1} if size else ():
        proof = merkle.inclusion_proof(index, size, tree.node)
        assert merkle.root_from_inclusion(whole[index], index, size, proof) == root
    old = steps[0]
    proof = merkle.consistency_proof(old, size, tree.node)
    merkle.check_consistency(old, Frontier().extended(whole[:old]).root(), size, root, proof)


def test_a_large_tree_has_the_files_that_the_specification_names(tmp_path: Path) -> None:
    files = TileFolder(tmp_path)
    whole = leaves(70_000)
    for start in range(0, 70_000, 7_000):
        files.extend(start, whole[start : start + 7_000])
    files.extend(63_000, whole[63_000:])  # again: nothing changes
    present = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert {"tile/0/272", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"} <= present
    assert sum(path.startswith("tile/0/") and ".p/" not in path for path in present) == 273
    tree = TileTree(70_000, files.read)
    root = Frontier().extended(whole).root()
    proof = merkle.inclusion_proof(69_999, 70_000, tree.node)
    assert merkle.root_from_inclusion(whole[69_999], 69_999, 70_000, proof) == root


def test_missing_and_short_tiles_are_named(tmp_path: Path) -> None:
    files = TileFolder(tmp_path)
    files.extend(0, leaves(300))
    (tmp_path / "tile/0/000").write_bytes(b"short")
    with pytest.raises(TileMissing, match=r"tile/0/000 is too short"):
        TileTree(300, files.read).node(0, 0)
    with pytest.raises(TileMissing, match=r"no tile/0/002"):
        TileTree(300, files.read).node(0, 512)
    (tmp_path / "tile/0/001.p/44").unlink()
    with pytest.raises(TileMissing, match=r"there is no tile/0/001\.p/44"):
        files.extend(300, leaves(1))
