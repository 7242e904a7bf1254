"""Run with the engine's interpreter: compares the demo model with the dense model it was made of; prints JSON.

The dense side is read by transformers' own GGUF loader, so that it shares no code with what is tested.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralForCausalLM,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from infra.demo_model import source

NEW_TOKENS = 64
PROMPTS = [
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain photosynthesis in two sentences.",
    "List 12 prime numbers, and say why 91 is not one.",
    "Wer hat die Relativitätstheorie aufgestellt? 世界 🌍",
]


def greedy(model: torch.nn.Module, ids: torch.Tensor) -> list[int]:
    """The tokens that follow `ids`, without stopping at the end token."""
    mask, length = torch.ones_like(ids), ids.shape[1]
    out = model.generate(
        ids, attention_mask=mask, do_sample=False, min_new_tokens=NEW_TOKENS, max_new_tokens=NEW_TOKENS
    )
    return out[0, length:].tolist()


def dense_model() -> LlamaForCausalLM:
    """The model as transformers reads the GGUF file, in float32."""
    path = source.gguf_file()
    config = LlamaConfig(**load_gguf_checkpoint(path)["config"])
    model = LlamaForCausalLM(config).eval()
    read = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model)["tensors"]
    missing, unexpected = model.load_state_dict(read, strict=False)
    if set(missing) != {"lm_head.weight"} or unexpected:
        raise SystemExit(f"transformers read the GGUF file differently: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    return model


def main(folder: Path) -> None:
    """Compare and print."""
    torch.set_grad_enabled(False)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dense = dense_model()
    sparse = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    experts = sparse.config.num_local_experts
    used = torch.zeros(sparse.config.num_hidden_layers, experts, dtype=torch.long)
    cases = []
    for prompt in PROMPTS:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
        expected, found = greedy(dense, ids), greedy(sparse, ids)
        output = sparse(ids, output_router_logits=True)
        difference = (dense(ids).logits - output.logits).abs().max().item()
        for layer, logits in enumerate(output.router_logits):
            used[layer] += torch.bincount(logits.topk(2, dim=-1).indices.flatten(), minlength=experts)
        cases.append(
            {
                "prompt": prompt,
                "equal": expected == found,
                "tokens": len(found),
                "largest_logit_difference": difference,
                "round_trip": tokenizer.decode(tokenizer.encode(prompt)) == prompt,
                "answer": tokenizer.decode(found),
            }
        )
    # The negative control: one expert of one layer made different must show.
    sparse.model.layers[0].mlp.experts.down_proj.data[0].mul_(-1.0)
    control, difference = greedy(sparse, ids), (dense(ids).logits - sparse(ids).logits).abs().max().item()
    print(
        json.dumps(
            {
                "control_equal": control == expected,
                "control_largest_logit_difference": difference,
                "dense": isinstance(dense, LlamaForCausalLM),
                "sparse": isinstance(sparse, MixtralForCausalLM),
                "cases": cases,
                "experts_used": used.tolist(),
                "digits": tokenizer.tokenize("a2024"),
                "stop_token": tokenizer.eos_token,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
