"""Headers of safetensors files that lie, and one written by the reference implementation's rules that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kasbah.registry.safetensors import BadSafetensors, read_header

from .folders import header, raw, weights


def read(folder: Path, content: bytes) -> Any:
    path = folder / "x.safetensors"
    path.write_bytes(content)
    return read_header(path)


def test_a_sound_header(tmp_path: Path) -> None:
    found = read(
        tmp_path, weights({"a": ("F32", [2, 3]), "scalar": ("BF16", []), "none": ("U8", [0, 7]), "b": ("U8", [5])})
    )
    assert found.names == {"a", "scalar", "none", "b"}
    assert found.elements == 6 + 1 + 0 + 5
    assert found.by_dtype == {"F32": 6, "BF16": 1, "U8": 5}


def test_half_bytes_are_counted(tmp_path: Path) -> None:
    found = read(tmp_path, raw({"a": {"dtype": "F4", "shape": [4], "data_offsets": [0, 2]}}, 2))
    assert found.by_dtype == {"F4": 4}
    with pytest.raises(BadSafetensors, match="its shape and F4 do not make"):
        read(tmp_path, raw({"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 2]}}, 2))


def tensor(**changed: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changed}}


LIES: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "0 bytes in a file of 0"),
    "seven bytes": (b"\0" * 7, "in a file of 7"),
    "no header": ((0).to_bytes(8, "little"), "0 bytes"),
    "header beyond the file": ((100).to_bytes(8, "little") + b"{}", "100 bytes in a file of 10"),
    "header of exabytes": (b"\xff" * 8 + b"{}", "in a file of 10"),
    "not JSON": (raw(b"{x}", 0), "not JSON"),
    "not UTF-8": (raw(b'{"\xff":1}', 0), "not JSON"),
    "too deep": (raw(b"[" * 200_000, 0), "not JSON"),
    "a list": (raw([], 0), "not a JSON object"),
    "a space first": (raw(b" {}", 0), "not a JSON object"),
    "twice": (raw(b'{"a":1,"a":1}', 0), "a tensor twice"),
    "metadata a list": (raw({"__metadata__": []}, 0), "not an object of texts"),
    "metadata nested": (raw({"__metadata__": {"a": {}}}, 0), "not an object of texts"),
    "no facts": (raw({"a": 1}, 0), "exactly dtype, shape and data_offsets"),
    "a fact more": (raw(tensor(more=1), 8), "exactly dtype, shape and data_offsets"),
    "unknown dtype": (raw(tensor(dtype="F33"), 8), "unknown dtype 'F33'"),
    "dtype a list": (raw(tensor(dtype=[]), 8), "unknown dtype"),
    "shape a number": (raw(tensor(shape=2), 8), "a short list of sizes"),
    "shape negative": (raw(tensor(shape=[-1, -2]), 8), "a short list of sizes"),
    "shape true": (raw(tensor(shape=[True, 2]), 8), "a short list of sizes"),
    "shape a float": (raw(tensor(shape=[2.0]), 8), "a short list of sizes"),
    "shape too long": (raw(tensor(shape=[1] * 17), 4), "a short list of sizes"),
    "shape overflows": (raw(tensor(shape=[2**62, 2**62]), 8), "do not make"),
    "offsets backwards": (raw(tensor(data_offsets=[8, 0]), 8), "not [begin, end]"),
    "offsets three": (raw(tensor(data_offsets=[0, 4, 8]), 8), "not [begin, end]"),
    "size wrong": (raw(tensor(shape=[3]), 8), "do not make"),
    "beyond the end": (raw(tensor(), 4), "8 bytes, the file holds 4"),
    "bytes left over": (raw(tensor(), 9), "8 bytes, the file holds 9"),
    "hole": (raw(tensor(data_offsets=[4, 12]), 12), "begins at 4, the one before ends at 0"),
    "overlap": (raw({**tensor(), "b": tensor(data_offsets=[4, 12])["a"]}, 12), "'b' begins at 4"),
}


@pytest.mark.parametrize(("content", "says"), LIES.values(), ids=LIES.keys())
def test_a_header_that_lies(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(BadSafetensors) as caught:
        read(tmp_path, content)
    assert says in str(caught.value)


@given(st.binary(max_size=40), st.integers(0, 60))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_is_refused_or_read_but_never_breaks(tmp_path: Path, damage: bytes, place: int) -> None:
    sound = weights({"a": ("F32", [2, 3]), "b": ("U8", [5])})
    spoiled = sound[:place] + damage + sound[place + len(damage) :]
    try:
        found = read(tmp_path, spoiled)
    except BadSafetensors:
        return
    assert found.elements <= 40 * len(spoiled)


def test_the_helper_lays_tensors_as_the_format_says() -> None:
    assert header({"a": ("F32", [2]), "b": ("U8", [3])}) == (
        {
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
            "b": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]},
        },
        11,
    )
