"""Tiles: the tree as plain files of at most 256 hashes (C2SP tlog-tiles), and proofs read from them.

The tile of level L and index N holds the hashes over 256**L leaves each, from N * 256 on. A full tile never changes;
a partial one lies beside it as `<N>.p/<W>` until the full one is there.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

from kasbah.audit.log.merkle import HASH, perfect_root

WIDTH = 256
HEIGHT = 8  # of the subtree that a full tile is
Read = Callable[[str], bytes]


class TileMissing(LookupError):
    """A tile that the tree must have is not there or is too short; the message names it."""


def name(level: int, index: int, width: int = WIDTH) -> str:
    """Relative path of a tile: `tile/0/x001/x234/067.p/5`."""
    parts = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        parts.insert(0, f"{index % 1000:03d}")
    place = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]])
    return f"tile/{level}/{place}" + (f".p/{width}" if width < WIDTH else "")


def width_of(level: int, index: int, size: int) -> int:
    """How many hashes the tile has in a tree of `size` leaves; 0 when it is not there."""
    return max(0, min(WIDTH, (size >> (HEIGHT * level)) - index * WIDTH))


class TileTree:
    """The hashes of a tree of `size` leaves, out of its tiles. `read` gives a tile's bytes by its name."""

    def __init__(self, size: int, read: Read) -> None:
        self._size = size
        self._read = read
        self._tile = lru_cache(maxsize=64)(self._load)

    def node(self, level: int, index: int) -> bytes:
        """Hash of a complete subtree, as merkle.Node. Raises TileMissing."""
        tier, height = divmod(level, HEIGHT)
        first = index << height
        tile, offset = divmod(first, WIDTH)
        hashes = self._tile(tier, tile)[offset * HASH : (offset + (1 << height)) * HASH]
        if len(hashes) != HASH << height:
            raise TileMissing(f"{name(tier, tile)} ends before hash {offset + (1 << height) - 1}")
        return perfect_root([hashes[at : at + HASH] for at in range(0, len(hashes), HASH)])

    def _load(self, level: int, index: int) -> bytes:
        width = width_of(level, index, self._size)
        if not width:
            raise TileMissing(f"a tree of {self._size} leaves has no {name(level, index)}")
        data = self._read(name(level, index, width))
        if len(data) < width * HASH:
            raise TileMissing(f"{name(level, index, width)} is too short")
        return data[: width * HASH]


class TileFolder:
    """Tiles as files of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes:
        """A tile; a partial one may be read from the full one (tlog-tiles, Partial Tiles). Raises TileMissing."""
        whole = path.partition(".p/")[0]
        for candidate in (path, whole):
            try:
                return (self._folder / candidate).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:  # a folder in its place, another account's
                raise TileMissing(f"{candidate} cannot be read: {error.strerror}") from error
        raise TileMissing(f"there is no {path}")

    def extend(self, old: int, leaves: Sequence[bytes]) -> None:
        """Write the tiles of the tree of `old` leaves and these more. Writing them again changes nothing.

        Raises TileMissing when those of the tree of `old` are not there.
        """
        level, before, hashes = 0, old, list(leaves)
        while hashes:
            first = before // WIDTH
            kept = before % WIDTH
            if kept:
                data = self.read(name(level, first, kept))
                hashes = [*(data[at : at + HASH] for at in range(0, kept * HASH, HASH)), *hashes]
            above: list[bytes] = []
            for start in range(0, len(hashes), WIDTH):
                row = hashes[start : start + WIDTH]
                self._write(level, first + start // WIDTH, row)
                if len(row) == WIDTH:
                    above.append(perfect_root(row))
            level, before, hashes = level + 1, before // WIDTH, above

    def _write(self, level: int, index: int, row: Sequence[bytes]) -> None:
        path = self._folder / name(level, index, len(row))
        write_whole(path, b"".join(row))
        if len(row) == WIDTH:
            shutil.rmtree(path.with_name(path.name + ".p"), ignore_errors=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees all of it or the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.new")
    with new.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
