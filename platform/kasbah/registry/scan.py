"""The first look at a model folder, before anything of it is copied or loaded: only what cannot run code comes in.

What is not known to be harmless is refused by name. Loading weights or code from pickle, from `auto_map` or from
Python files runs what the publisher wrote; safetensors, JSON and text do not.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from inference_worker.contract.printable import first_unprintable
from kasbah.common.errors import Invalid
from kasbah.registry import shards, tokenizers
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
KNOWN_NAMES = re.compile(
    r"(licen[sc]e|notice|copying|readme|use_policy)([-_.][a-z0-9]+)*|\.gitattributes|tokenizer\.model\.v[0-9]+", re.I
)
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
SHOWN = 50  # findings in one message
T = TypeVar("T")
CODE_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines")


@dataclass(frozen=True, slots=True)
class Scanned:
    """What the scan learned: the parsed config.json and the headers of the weights by file name."""

    config: dict[str, Any]
    weights: dict[str, Tensors]
    main: tuple[str, ...]  # the files that make up the model once; others repeat it in another layout


def scan(folder: Path) -> Scanned:
    """Look at every file below `folder`. Raises Invalid naming each file that may not come in, and why."""
    scanned, findings = survey(folder)
    if scanned is None or findings:
        raise refusal(findings)
    return scanned


def survey(folder: Path) -> tuple[Scanned | None, list[str]]:
    """What the scan learned (None: there is no config.json to read), and everything that stands against the folder.

    Raises Invalid where it is no folder, or holds too many files.
    """
    findings: list[str] = []
    files = _files(folder, findings)
    for name, path in files.items():
        _attempt(findings, _check_kind, name, path)
    documents: dict[str, Any] = {}
    weights: dict[str, Tensors] = {}
    for name, path in files.items():
        if path.suffix.lower() == ".json" and (read := _attempt(findings, _document, name, path)) is not None:
            documents[name] = read
        if path.suffix.lower() == ".safetensors" and (read := _attempt(findings, _header, name, path)) is not None:
            weights[name] = read
    if not any(path.suffix.lower() == ".safetensors" for path in files.values()):
        findings.append(f"{folder.name} holds no .safetensors file; convert the weights to safetensors first")
    findings += [f"{name} holds no tensor" for name, found in weights.items() if not found.names]
    for name in documents:
        _attempt(findings, _check_index, name, documents, weights)
    findings += [
        *shards.problems(documents, [name for name in files if name.lower().endswith(".safetensors")]),
        *tokenizers.problems(files, documents),
    ]
    config = documents.get(CONFIG)
    if not isinstance(config, dict):
        if CONFIG not in files or CONFIG in documents:
            findings.append(f"{CONFIG} is missing or not a JSON object; a model in Hugging Face format has one")
        return None, findings
    return Scanned(config, weights, () if findings else _main(documents, weights)), findings


def refusal(findings: list[str]) -> Invalid:
    """The error that names what was found, all at once."""
    more = f"; and {len(findings) - SHOWN} more" if len(findings) > SHOWN else ""
    return Invalid("; ".join(findings[:SHOWN]) + f"{more}.", param="folder", code="model_refused")


def _attempt(findings: list[str], check: Callable[..., T], *given: Any) -> T | None:
    """What the check returns; what it refuses is one finding more, and the look goes on."""
    try:
        return check(*given)
    except Invalid as error:
        findings.append(error.message.removesuffix("."))
        return None


def _refused(name: str, why: str) -> Invalid:
    return Invalid(f"{name} {why}.", param="folder", code="model_refused")


def _files(folder: Path, findings: list[str]) -> dict[str, Path]:
    """Regular files by relative path; links, sockets, devices and folders that cannot be read are findings."""
    if folder.is_symlink() or not folder.is_dir():
        raise _refused(str(folder), "is not a folder, or is a link to one")
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name, mode = path.relative_to(folder).as_posix(), path.lstat().st_mode
        if stat.S_ISDIR(mode):
            continue
        if _attempt(findings, _check_file, name, mode) is not None:
            files[name] = path
        if len(files) > MAX_FILES:
            raise _refused(folder.name, f"holds more than {MAX_FILES} files")
    return files


def _check_file(name: str, mode: int) -> str:
    if not name.isprintable() or first_unprintable(name) is not None:
        raise _refused(ascii(name), "has a name that cannot be shown; rename it")
    if stat.S_ISLNK(mode):
        raise _refused(name, "is a link, which leads elsewhere; copy the file itself into the folder")
    if not stat.S_ISREG(mode):
        raise _refused(name, "is not a regular file; remove it from the folder")
    return name


def _check_kind(name: str, path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in PICKLE:
        raise _refused(name, "may hold pickled objects, which run code when loaded; use safetensors weights instead")
    if suffix in OTHER_WEIGHTS:
        raise _refused(name, "holds weights that are not safetensors; convert them, or remove the file")
    if suffix in CODE:
        raise _refused(name, "is code; models that need their own code are not taken. Remove it if they do not")
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise _refused(name, "is a pointer of Git LFS and not the file itself; fetch it with `git lfs pull`")
    if suffix not in KNOWN and not KNOWN_NAMES.fullmatch(path.name):
        raise _refused(name, f"is of a kind that no model needs (known: {', '.join(sorted(KNOWN))}); remove it")


def _document(name: str, path: Path) -> Any:
    document = _json(name, path)
    _refuse_code(name, document)
    return document


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


def _check_index(name: str, documents: dict[str, Any], weights: dict[str, Tensors]) -> None:
    """An index must name tensors that are really in the files it names."""
    if not name.endswith(".safetensors.index.json"):
        return
    document = documents[name]
    placed = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(placed, dict) or not placed:
        raise _refused(name, "has no weight_map")
    folder = name.rpartition("/")[0]
    for tensor, file in placed.items():
        place = f"{folder}/{file}" if folder else str(file)
        if place not in weights:
            raise _refused(name, f"names {str(file)[:100]!r}, which is not in the folder")
        if tensor not in weights[place].names:
            raise _refused(name, f"places {tensor[:100]!r} in {place}, which does not hold it")
