"""A model that is not whole is refused, and everything that is wrong with a folder is said at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kasbah.common.errors import Invalid
from kasbah.registry import scan as scanning
from kasbah.registry import shards, tokenizers
from kasbah.registry.scan import scan
from kasbah.registry.store import _look

from .folders import model, weights

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


def sharded(folder: Path, *shards_there: str, index: dict[str, str] | None = None) -> Path:
    """A model of two numbered files, of which some are there."""
    model(folder)
    (folder / "model.safetensors").unlink()
    tensors = {ONE: {"embed": ("F32", [8, 4])}, TWO: {"gate": ("F32", [4, 4])}}
    for name in shards_there:
        (folder / name).write_bytes(weights(tensors[name]))
    if index is not None:
        (folder / INDEX).write_text(json.dumps({"weight_map": index}))
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(Invalid) as found:
        _look(folder)
    assert found.value.param == "folder"
    assert found.value.code == "model_refused"
    return found.value.message


WHOLE: dict[str, str] = {"embed": ONE, "gate": TWO}


def test_the_control_a_whole_model_of_two_files_comes_in(tmp_path: Path) -> None:
    assert len(scan(sharded(tmp_path / "a", ONE, TWO, index=WHOLE)).main) == 2
    assert len(scan(sharded(tmp_path / "b", ONE, TWO)).main) == 2


@pytest.mark.parametrize(
    ("there", "index", "says"),
    [
        ((ONE,), None, f"{TWO} is missing"),
        ((TWO,), None, f"{ONE} is missing"),
        ((ONE,), {"embed": ONE}, f"{TWO} is missing"),
        ((ONE, TWO), {"embed": ONE}, f"does not name {TWO}"),
        ((ONE,), WHOLE, "which is not in the folder"),
        ((ONE, TWO), {}, "has no weight_map"),
    ],
)
def test_a_shard_that_is_missing_or_not_named_is_refused(
    there: tuple[str, ...], index: dict[str, str] | None, says: str, tmp_path: Path
) -> None:
    assert says in refused(sharded(tmp_path / "m", *there, index=index))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tokenizer.json", POINTER, "tokenizer.json is a pointer of Git LFS"),
        ("tokenizer.model", POINTER, "tokenizer.model is a pointer of Git LFS"),
        ("model.safetensors", POINTER, "model.safetensors is a pointer of Git LFS"),
        ("tokenizer.json", b"", "tokenizer.json"),
        ("tokenizer.json", b"{}", "tokenizer.json holds no vocabulary"),
        ("tokenizer.json", b'{"model": {"vocab": {}}}', "tokenizer.json holds no vocabulary"),
        ("tokenizer.model", b"", "tokenizer.model holds no vocabulary"),
        ("tokenizer.json", None, "the folder has no tokenizer"),
        ("model.safetensors", weights({}), "model.safetensors holds no tensor"),
        ("model.safetensors", None, "holds no .safetensors file"),
    ],
)
def test_what_is_no_model_is_refused(name: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert says in refused(folder)


@pytest.mark.parametrize(
    "name",
    ["tokenizer.model.v3", "LICENSE-MODEL", "LICENSE.txt", "LICENSE-CODE", "USE_POLICY.md", "Notice", "NOTICE.txt",
     ".gitattributes", "README.md"],
)  # fmt: skip
def test_files_that_good_models_have_come_in(name: str, tmp_path: Path) -> None:
    (model(tmp_path / "m") / name).write_bytes(b"some words")
    _look(tmp_path / "m")


@pytest.mark.parametrize("name", ["tekken.json", "vocab.json", "tokenizer.model", "vocab.txt", "qwen.tiktoken"])
def test_a_tokenizer_of_another_kind_is_enough(name: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    (folder / name).write_text('{"a": 1}')
    _look(folder)


def test_all_findings_come_at_once(tmp_path: Path) -> None:
    folder = model(tmp_path / "m", hidden_size=None, vocab_size=None)
    for name in ("a.py", "b.bin", "c.metadata", "d.lock", ".cache/huggingface/e.metadata"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "tokenizer.json").unlink()
    (folder / "link").symlink_to("a.py")
    message = refused(folder)
    for said in ("a.py", "b.bin", "c.metadata", "d.lock", "e.metadata", "link", "no tokenizer"):
        assert said in message
    assert "hidden_size is missing; vocab_size is missing" in message


def test_a_folder_of_rubbish_is_told_within_bounds(tmp_path: Path) -> None:
    folder = model(tmp_path / "m")
    for number in range(200):
        (folder / f"{number}.exe").write_text("x")
    message = refused(folder)
    assert "and 150 more" in message
    assert len(message) < 20_000


def test_the_control_takes_them_all_without_the_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: Any) -> list[str]:
        return []

    folder = sharded(tmp_path / "m", ONE)
    (folder / "tokenizer.json").unlink()
    monkeypatch.setattr(shards, "problems", nothing)
    monkeypatch.setattr(tokenizers, "problems", nothing)
    _look(folder)
    (folder / "tokenizer.model").write_bytes(POINTER)
    monkeypatch.setattr(scanning, "LFS_POINTER", b"nothing begins like this")
    _look(folder)
