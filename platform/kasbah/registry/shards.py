"""Whether a model's weights are all there: files that are numbered, and the index that names them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors", re.ASCII)
NAMED = 5  # missing files that one finding names


def problems(documents: Mapping[str, Any], files: Sequence[str]) -> Iterator[str]:
    """Every set of numbered files (model-00001-of-00003.safetensors) that is not whole, and what its index leaves out.

    `files` are the safetensors files by relative path, `documents` the JSON files.
    """
    sets: dict[tuple[str, int], set[int]] = defaultdict(set)
    for name in files:
        if (found := SHARD.fullmatch(name)) is not None:
            sets[found[1], int(found[3])].add(int(found[2]))
    for (stem, total), numbers in sets.items():
        missing = sorted(set(range(1, min(total, 99_999) + 1)) - numbers)
        if missing:
            names = ", ".join(_name(stem, number, total) for number in missing[:NAMED])
            more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            yield f"{names}{more} is missing; fetch all {total} files of the weights"
        if (index := documents.get(f"{stem}.safetensors.index.json")) is not None:
            named = _named(index)
            for number in sorted(numbers):
                file = _name(stem, number, total)
                if named and file.rpartition("/")[2] not in named:
                    yield f"{stem}.safetensors.index.json does not name {file}, which is in the folder"


def _name(stem: str, number: int, total: int) -> str:
    return f"{stem}-{number:05d}-of-{total:05d}.safetensors"


def _named(index: Any) -> set[str]:
    placed = index.get("weight_map") if isinstance(index, dict) else None
    return {str(file) for file in placed.values()} if isinstance(placed, dict) else set()
