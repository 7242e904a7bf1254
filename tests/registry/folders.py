"""Small model folders, written byte by byte."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 4,
    "max_position_embeddings": 2048,
    "num_attention_heads": 2,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "num_local_experts": 4,
    "vocab_size": 8,
}
SIZES = {"F32": 4, "BF16": 2, "U8": 1}


def header(tensors: dict[str, tuple[str, list[int]]], **metadata: str) -> tuple[dict[str, Any], int]:
    """The header of tensors `name: (dtype, shape)` laid one after another, and the size of their bytes."""
    found: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    position = 0
    for name, (dtype, shape) in tensors.items():
        end = position + math.prod(shape) * SIZES[dtype]
        found[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    return found, position


def raw(head: object, size: int) -> bytes:
    """A safetensors file with this header (JSON, or bytes as they are) and `size` bytes of data."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + bytes(number % 251 for number in range(size))


def weights(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    """A sound safetensors file."""
    return raw(*header(tensors, format="pt"))


def model(folder: Path, **config: Any) -> Path:
    """A sound model of 48 parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"auto_map": 1}}}')  # a word like any other
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "LICENSE").write_text("Apache-2.0")
    (folder / "model.safetensors").write_bytes(weights({"embed": ("F32", [8, 4]), "gate": ("F32", [4, 4])}))
    return folder
