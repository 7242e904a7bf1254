"""Reads the header of a safetensors file and believes nothing in it: the format has no code, its header has lies.

Format: 8 bytes little-endian header length, a JSON object `{name: {dtype, shape, data_offsets}}`, the tensors' bytes
(https://github.com/huggingface/safetensors#format). Tensors must follow each other without hole or overlap.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HEADER = 100_000_000  # bytes; the reference implementation's limit
MAX_DIMENSIONS = 16
METADATA = "__metadata__"
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64,
}  # fmt: skip


class BadSafetensors(ValueError):
    """The file is not safetensors, or its header contradicts itself or the file's size."""


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a header says: tensor names, the number of elements of all together, and elements by dtype."""

    names: frozenset[str]
    elements: int
    by_dtype: dict[str, int]


def read_header(path: Path) -> Tensors:
    """Check the header of a file against itself and the file's size. Raises BadSafetensors."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
            raise BadSafetensors(f"its header would have {length} bytes in a file of {size}")
        raw = file.read(length)
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise BadSafetensors(f"its header is not JSON: {error}") from error
    if not isinstance(header, dict) or raw[:1] != b"{":
        raise BadSafetensors("its header is not a JSON object")
    _check_metadata(header.pop(METADATA, {}))
    return _check_tensors(header, size - 8 - length)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise BadSafetensors("its header names a tensor twice")
    return result


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadSafetensors(f"{METADATA} is not an object of texts")


def _check_tensors(header: dict[str, Any], data_size: int) -> Tensors:
    by_dtype: dict[str, int] = {}
    spans: list[tuple[int, int, str]] = []
    for name, facts in header.items():
        dtype, elements, begin, end = _facts(name, facts)
        if (end - begin) * 8 != elements * BITS[dtype]:
            raise BadSafetensors(f"tensor {name!r} has {end - begin} bytes, which its shape and {dtype} do not make")
        spans.append((begin, end, name))
        by_dtype[dtype] = by_dtype.get(dtype, 0) + elements
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise BadSafetensors(f"tensor {name!r} begins at {begin}, the one before ends at {position}")
        position = end
    if position != data_size:
        raise BadSafetensors(f"its tensors have {position} bytes, the file holds {data_size}")
    return Tensors(frozenset(header), sum(by_dtype.values()), by_dtype)


def _facts(name: str, facts: object) -> tuple[str, int, int, int]:
    """dtype, number of elements, begin and end of one tensor."""
    if not isinstance(facts, dict) or facts.keys() != {"dtype", "shape", "data_offsets"}:
        raise BadSafetensors(f"tensor {name!r} does not have exactly dtype, shape and data_offsets")
    dtype, shape, offsets = facts["dtype"], facts["shape"], facts["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise BadSafetensors(f"tensor {name!r} has the unknown dtype {str(dtype)[:20]!r}")
    if not (_naturals(shape) and len(shape) <= MAX_DIMENSIONS):
        raise BadSafetensors(f"tensor {name!r} has a shape that is not a short list of sizes")
    if not (_naturals(offsets) and len(offsets) == 2 and offsets[0] <= offsets[1]):
        raise BadSafetensors(f"tensor {name!r} has data_offsets that are not [begin, end]")
    return dtype, math.prod(shape), offsets[0], offsets[1]


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)
