"""What a model is made of, from its config.json and the headers of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kasbah.common.errors import Invalid
from kasbah.registry.scan import Scanned

# The same fact under the names that the families give it (transformers' configuration classes).
NAMES: dict[str, tuple[str, ...]] = {
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model"),
    "attention_heads": ("num_attention_heads", "n_head"),
    "kv_heads": ("num_key_value_heads", "num_attention_heads", "n_head"),
    "vocabulary": ("vocab_size",),
    "context": ("max_position_embeddings", "n_positions", "max_sequence_length"),
    "experts": ("num_local_experts", "n_routed_experts", "num_experts", "moe_num_experts"),
    "experts_per_token": ("num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_k"),
    "shared_experts": ("n_shared_experts", "num_shared_experts"),
}
REQUIRED = ("layers", "hidden_size", "vocabulary", "context")
MAX = 10**9
Topology = dict[str, str | int | bool]


def topology_of(scanned: Scanned) -> Topology:
    """The facts as plain values. `parameters` is left out where weights are packed and cannot be counted so.

    Raises Invalid naming the field of config.json that is missing or cannot be.
    """
    config = scanned.config
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise _invalid("architectures", "must name the architecture, such as MixtralForCausalLM")
    text = config.get("text_config", config)  # models that also see keep the language model's facts there
    if not isinstance(text, Mapping):
        raise _invalid("text_config", "must be an object")
    facts: Topology = {"architecture": architectures[0][:200]}
    for name, spellings in NAMES.items():
        if (value := _number(text, spellings)) is not None:
            facts[name] = value
    if missing := [NAMES[name][0] for name in REQUIRED if not facts.get(name)]:
        raise _invalid(" is missing; ".join(missing), "is missing")
    _check_experts(facts)
    packed = "quantization_config" in config or "quantization_config" in text
    facts["packed"] = packed
    if not packed:
        facts["parameters"] = sum(scanned.weights[name].elements for name in scanned.main)
    return facts


def _invalid(field: str, why: str) -> Invalid:
    return Invalid(f"config.json: {field} {why}.", param="folder", code="model_refused")


def _number(text: Mapping[str, Any], spellings: tuple[str, ...]) -> int | None:
    for spelling in spellings:
        value = text.get(spelling)
        if value is None:
            continue
        if type(value) is not int or not 0 <= value <= MAX:
            raise _invalid(spelling, f"must be an integer from 0 to {MAX}")
        return value
    return None


def _check_experts(facts: Topology) -> None:
    experts, chosen = int(facts.get("experts", 0)), int(facts.get("experts_per_token", 0))
    facts["mixture_of_experts"] = experts > 1
    if experts > 1 and not 1 <= chosen <= experts:
        raise _invalid("num_experts_per_tok", f"is {chosen}, which does not fit {experts} experts")
