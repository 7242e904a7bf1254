"""A zip whose bytes depend on nothing but what it is given."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

EPOCH = (1980, 1, 1, 0, 0, 0)  # a zip's earliest time: the same for every file, so that nothing depends on the clock
LEVEL = 1  # of zlib: a tenth larger than by level 6, in less than half the time
BLOCK = 1 << 20  # bytes


class Archive:
    """Remembers size and digest of every file that it was given."""

    def __init__(self, file: IO[bytes]) -> None:
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=LEVEL)
        self.files: dict[str, dict[str, str | int]] = {}

    @contextmanager
    def stream(self, path: str) -> Iterator[Callable[[bytes], None]]:
        """Write one file piece by piece."""
        digest, size = hashlib.sha256(), 0
        waiting = bytearray()
        with self._zip.open(_info(path), "w", force_zip64=True) as file:

            def flush() -> None:
                nonlocal size
                digest.update(waiting)
                size += len(waiting)
                file.write(waiting)
                waiting.clear()

            def write(data: bytes) -> None:
                waiting.extend(data)
                if len(waiting) >= BLOCK:
                    flush()

            yield write
            flush()
        self.files[path] = {"sha256": digest.hexdigest(), "size": size}

    def add(self, path: str, data: bytes) -> None:
        """Write one file."""
        with self.stream(path) as write:
            write(data)

    def copy(self, path: str, file: IO[bytes]) -> None:
        """Write what `file` holds, from its start."""
        file.seek(0)
        with self.stream(path) as write:
            while block := file.read(BLOCK):
                write(block)

    def close(self) -> None:
        """End the archive."""
        self._zip.close()


def _info(path: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path, EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3
    info.external_attr = 0o100644 << 16
    return info
