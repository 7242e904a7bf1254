"""The first look at a model folder, before anything of it is copied or loaded: only what cannot run code comes in.

What is not known to be harmless is refused by name. Loading weights or code from pickle, from `auto_map` or from
Python files runs what the publisher wrote; safetensors, JSON and text do not.
"""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kasbah.common.errors import Invalid
from kasbah.registry.safetensors import BadSafetensors, Tensors, read_header

CONFIG = "config.json"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
MAX_JSON = 64 * 1024 * 1024  # the largest published tokenizers have half of it
MAX_FILES = 10_000
PICKLE = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".npy", ".npz"}
OTHER_WEIGHTS = {".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".tflite", ".pb", ".ot", ".mlmodel", ".keras"}
CODE = {".py", ".pyc", ".so", ".sh", ".dll", ".dylib", ".js", ".ipynb", ".egg", ".whl"}
# Tokenizers (.model: SentencePiece, .tiktoken), configuration, templates, papers.
KNOWN = {".safetensors", ".json", ".txt", ".model", ".tiktoken", ".jinja", ".md", ".jsonl", ".yaml", ".yml"}
KNOWN_NAMES = {"LICENSE", "LICENCE", "NOTICE", "COPYING", "README", ".gitattributes"}
CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")


@dataclass(frozen=True, slots=True)
class Scanned:
    """What the scan learned: the parsed config.json and the headers of the weights by file name."""

    config: dict[str, Any]
    weights: dict[str, Tensors]
    main: tuple[str, ...]  # the files that make up the model once; others repeat it in another layout


def scan(folder: Path) -> Scanned:
    """Look at every file below `folder`. Raises Invalid naming the first file that may not come in, and why."""
    files = _files(folder)
    for name, path in files.items():
        _check_kind(name, path)
    documents = {name: _json(name, path) for name, path in files.items() if path.suffix.lower() == ".json"}
    for name, document in documents.items():
        _refuse_code(name, document)
    weights = {name: _header(name, path) for name, path in files.items() if path.suffix.lower() == ".safetensors"}
    if not weights:
        raise _refused(folder.name, "holds no .safetensors file; convert the weights to safetensors first")
    config = documents.get(CONFIG)
    if not isinstance(config, dict):
        raise _refused(CONFIG, "is missing or not a JSON object; a model in Hugging Face format has one")
    _check_index(documents, weights)
    return Scanned(config, weights, _main(documents, weights))


def _refused(name: str, why: str) -> Invalid:
    return Invalid(f"{name} {why}.", param="folder", code="model_refused")


def _files(folder: Path) -> dict[str, Path]:
    """Regular files by relative path; links, sockets, devices and folders that cannot be read are refused."""
    if folder.is_symlink() or not folder.is_dir():
        raise _refused(str(folder), "is not a folder, or is a link to one")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise _refused(name, "is a link, which leads elsewhere; copy the file itself into the folder")
        if stat.S_ISDIR(mode):
            continue
        if not stat.S_ISREG(mode):
            raise _refused(name, "is not a regular file; remove it from the folder")
        if not name.isprintable():
            raise _refused(ascii(name), "has a name that cannot be shown; rename it")
        files[name] = path
        if len(files) > MAX_FILES:
            raise _refused(folder.name, f"holds more than {MAX_FILES} files")
    return files


def _check_kind(name: str, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in PICKLE:
        raise _refused(name, "may hold pickled objects, which run code when loaded; use safetensors weights instead")
    if suffix in OTHER_WEIGHTS:
        raise _refused(name, "holds weights that are not safetensors; convert them, or remove the file")
    if suffix in CODE:
        raise _refused(name, "is code; models that need their own code are not taken. Remove it if they do not")
    if suffix not in KNOWN and path.name.upper() not in KNOWN_NAMES and path.name not in KNOWN_NAMES:
        raise _refused(name, f"is of a kind that no model needs (known: {', '.join(sorted(KNOWN))}); remove it")


def _json(name: str, path: Path) -> Any:
    if path.stat().st_size > MAX_JSON:
        raise _refused(name, f"is over {MAX_JSON // 2**20} MiB, which no configuration or tokenizer is")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _refused(name, "is not JSON") from error


def _refuse_code(name: str, document: Any) -> None:
    """Refuse keys that make a loader import the publisher's code, at any depth of a configuration."""
    if not name.endswith(CONFIG):  # a vocabulary may hold any word as a key
        return
    open_parts = [document]
    while open_parts:
        part = open_parts.pop()
        if isinstance(part, dict):
            for key in CODE_KEYS:
                if part.get(key):
                    raise _refused(name, f"has {key}, which loads code that comes with the model")
            open_parts.extend(part.values())
        elif isinstance(part, list):
            open_parts.extend(part)


def _header(name: str, path: Path) -> Tensors:
    try:
        return read_header(path)
    except BadSafetensors as error:
        raise _refused(name, f"is not a sound safetensors file: {error}") from error


def _main(documents: dict[str, Any], weights: dict[str, Tensors]) -> tuple[str, ...]:
    if INDEX in documents:
        return tuple(sorted(set(documents[INDEX]["weight_map"].values())))
    return (SINGLE,) if SINGLE in weights else tuple(weights)


def _check_index(documents: dict[str, Any], weights: dict[str, Tensors]) -> None:
    """An index must name tensors that are really in the files it names."""
    for name, document in documents.items():
        if not name.endswith(".safetensors.index.json"):
            continue
        placed = document.get("weight_map") if isinstance(document, dict) else None
        if not isinstance(placed, dict):
            raise _refused(name, "has no weight_map")
        folder = name.rpartition("/")[0]
        for tensor, file in placed.items():
            place = f"{folder}/{file}" if folder else str(file)
            if place not in weights:
                raise _refused(name, f"names {str(file)[:100]!r}, which is not in the folder")
            if tensor not in weights[place].names:
                raise _refused(name, f"places {tensor[:100]!r} in {place}, which does not hold it")
