"""Whether a model comes with a tokenizer that holds something: an engine cannot start without one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FAST, TEKKEN, VOCABULARY = "tokenizer.json", "tekken.json", "vocab.json"
# SentencePiece's models under the names that families give them, tiktoken's ranks, WordPiece's vocabulary.
OTHERS = re.compile(r"tokenizer\.model(\.v[0-9]+)?|spiece\.model|sentencepiece\.bpe\.model|.+\.tiktoken|vocab\.txt")
NONE = (
    "the folder has no tokenizer (tokenizer.json, tokenizer.model, tekken.json, vocab.json, vocab.txt or *.tiktoken);"
    " fetch it from where the model comes from"
)


def problems(files: Mapping[str, Path], documents: Mapping[str, Any]) -> Iterator[str]:
    """What stands against the tokenizer; files are by relative path, `documents` the JSON files that could be read."""
    found = [name for name in files if name in (FAST, TEKKEN, VOCABULARY) or OTHERS.fullmatch(name)]
    if not found:
        yield NONE
    for name in found:
        if files[name].stat().st_size == 0 or (name in documents and not _holds(name, documents[name])):
            yield f"{name} holds no vocabulary; fetch it again from where the model comes from"


def _holds(name: str, document: Any) -> bool:
    if not isinstance(document, dict) or not document:
        return False
    if name != FAST:
        return True
    model = document.get("model")
    return isinstance(model, dict) and bool(model.get("vocab"))
