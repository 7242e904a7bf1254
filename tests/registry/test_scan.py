"""What may not come in: each hostile folder is refused by a message that names the file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kasbah.common.errors import Invalid
from kasbah.registry.scan import scan

from .folders import CONFIG, model, raw, weights


def test_a_sound_folder_comes_in(tmp_path: Path) -> None:
    scanned = scan(model(tmp_path / "model"))
    assert scanned.config == CONFIG
    assert scanned.weights["model.safetensors"].elements == 48
    assert scanned.main == ("model.safetensors",)


def put(name: str, content: str | bytes = "x") -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return run


def config(name: str = "config.json", **fields: Any) -> Callable[[Path], None]:
    return put(name, json.dumps({**CONFIG, **fields}))


def index(**weight_map: Any) -> Callable[[Path], None]:
    return put("model.safetensors.index.json", json.dumps({"weight_map": weight_map}))


def link(name: str, target: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(target)


CODE = {"AutoModel": "modeling_evil.EvilModel"}
HOSTILE: dict[str, tuple[str, str, Callable[[Path], None]]] = {
    "pickle": ("pytorch_model.bin", "pickled", put("pytorch_model.bin")),
    "torch": ("weights.PT", "pickled", put("weights.PT")),
    "checkpoint": ("old/model.ckpt", "pickled", put("old/model.ckpt")),
    "numpy": ("data.npy", "pickled", put("data.npy")),
    "gguf": ("model.gguf", "not safetensors", put("model.gguf")),
    "keras": ("tf_model.h5", "not safetensors", put("tf_model.h5")),
    "python": ("modeling_evil.py", "is code", put("modeling_evil.py")),
    "library": ("deep/in/side.so", "is code", put("deep/in/side.so")),
    "hidden python": (".hidden.py", "is code", put(".hidden.py")),
    "unknown kind": ("setup.exe", "no model needs", put("setup.exe")),
    "no suffix": ("weights", "no model needs", put("weights")),
    "auto_map": ("config.json", "auto_map", config(auto_map=CODE)),
    "auto_map inside": ("config.json", "auto_map", config(text_config={"a": [{"auto_map": CODE}]})),
    "auto_map of the tokenizer": ("tokenizer_config.json", "auto_map", config("tokenizer_config.json", auto_map=CODE)),
    "auto_map of a part": ("vision/config.json", "auto_map", config("vision/config.json", auto_map=CODE)),
    "trust_remote_code": ("config.json", "trust_remote_code", config(trust_remote_code=True)),
    "link to a file": ("tokenizer.model", "is a link", link("tokenizer.model", "/etc/passwd")),
    "link to a folder": ("more", "is a link", link("more", "/etc")),
    "dangling link": ("vocab.txt", "is a link", link("vocab.txt", "nowhere")),
    "pipe": ("pipe.txt", "not a regular file", lambda folder: os.mkfifo(folder / "pipe.txt")),
    "name that hides": ("'a\\u202efdp.txt'", "cannot be shown", put("a\u202efdp.txt")),
    "no config": ("config.json", "is missing", lambda folder: (folder / "config.json").unlink()),
    "config no object": ("config.json", "is missing or not", put("config.json", "[]")),
    "config no JSON": ("config.json", "is not JSON", put("config.json", "{")),
    "JSON too deep": ("config.json", "is not JSON", put("config.json", "[" * 200_000)),
    "no weights": ("model", "holds no .safetensors", lambda folder: (folder / "model.safetensors").unlink()),
    "weights that are none": ("more.safetensors", "not a sound", put("more.safetensors", b"\x80\x04pickle....")),
    "index out of the folder": ("model.safetensors.index.json", "not in the folder", index(embed="../x.safetensors")),
    "index of a missing file": ("model.safetensors.index.json", "not in the folder", index(embed="a.safetensors")),
    "index of a number": ("model.safetensors.index.json", "not in the folder", index(embed=7)),
    "index of a missing tensor": ("model.safetensors.index.json", "does not hold", index(x="model.safetensors")),
    "index without map": ("model.safetensors.index.json", "no weight_map", put("model.safetensors.index.json", "[]")),
}


@pytest.mark.parametrize(("name", "why", "spoil"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_folder_is_refused(tmp_path: Path, name: str, why: str, spoil: Callable[[Path], None]) -> None:
    folder = model(tmp_path / "model")
    scan(folder)  # the control: before it is spoiled it comes in
    spoil(folder)
    with pytest.raises(Invalid) as caught:
        scan(folder)
    assert caught.value.message.startswith(f"{name} "), caught.value.message
    assert why in caught.value.message
    assert (caught.value.param, caught.value.code) == ("folder", "model_refused")


def test_a_folder_that_is_a_link_or_none(tmp_path: Path) -> None:
    model(tmp_path / "model")
    (tmp_path / "link").symlink_to("model")
    for name in ("link", "absent", "model/config.json"):
        with pytest.raises(Invalid, match="is not a folder"):
            scan(tmp_path / name)


def test_what_counts_as_the_model_once(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    (folder / "consolidated.safetensors").write_bytes(weights({"all": ("F32", [100])}))
    assert scan(folder).main == ("model.safetensors",)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    assert scan(folder).main == ("a.safetensors", "consolidated.safetensors")
    index(embed="a.safetensors", gate="a.safetensors")(folder)
    assert scan(folder).main == ("a.safetensors",)


def test_too_many_files_and_too_large_a_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model(tmp_path / "model")
    monkeypatch.setattr("kasbah.registry.scan.MAX_FILES", 4)
    with pytest.raises(Invalid, match="more than 4 files"):
        scan(folder)
    monkeypatch.undo()
    monkeypatch.setattr("kasbah.registry.scan.MAX_JSON", 50)
    with pytest.raises(Invalid, match=r"^config.json is over"):
        scan(folder)


def test_a_header_that_lies_is_refused_with_its_file(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(raw({}, 4))
    with pytest.raises(Invalid, match=r"model.safetensors is not a sound safetensors file: its tensors have 0 bytes"):
        scan(folder)
