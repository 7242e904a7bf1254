"""Writes SmolLM2's tokenizer from the vocabulary and merges in the GGUF file.

The steps before the merges are not in GGUF, only their name, `smollm`: digits one by one, then GPT-2's
byte-level pattern (llama.cpp, LLAMA_VOCAB_PRE_TYPE_SMOLLM; the tokenizer.json of
HuggingFaceTB/SmolLM2-135M-Instruct).
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from infra.demo_model.source import Dense

CONTROL = 3  # GGUF's token type for tokens that are never text (llama.cpp, LLAMA_TOKEN_TYPE_CONTROL)


def build(dense: Dense) -> Tokenizer:
    """The tokenizer as the `tokenizers` library saves it. Raises ValueError for another kind of vocabulary."""
    kind = (dense.field("tokenizer.ggml.model"), dense.field("tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"the GGUF file's tokenizer is {kind}, and only ('gpt2', 'smollm') is known here")
    tokens: list[str] = dense.field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ", 1)) for merge in dense.field("tokenizer.ggml.merges")]
    result = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=merges))
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    result.decoder = decoders.ByteLevel()
    types = dense.field("tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    result.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return result


def config_of(dense: Dense) -> dict[str, Any]:
    """tokenizer_config.json."""
    tokens = dense.field("tokenizer.ggml.tokens")
    names = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
    special = {f"{key}_token": tokens[dense.field(f"tokenizer.ggml.{name}_token_id")] for key, name in names.items()}
    return {
        **special,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": dense.shape.context,
        "tokenizer_class": "GPT2Tokenizer",
    }
