"""Writes the demo model: SmolLM2-135M-Instruct upcycled to a Mixtral with four experts, two per token.

Each expert is a copy of the dense MLP (sparse upcycling: Komatsuzaki et al. 2022, arXiv:2212.05055). Mixtral
renormalises the weights of the chosen experts to sum to one, so the mixture answers as the dense model does
while its routing is real: the routers are small, random and different in each layer.

    .venv-engine/bin/python -m infra.demo_model.build --models DIR

The same bytes come out of every build. Progress goes to standard error; standard output is one line of JSON with the
digest and the folder.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from inference_worker.contract import manifest
from infra.demo_model import source, tokenizer
from infra.demo_model.source import Array, Dense

EXPERTS, EXPERTS_PER_TOKEN = 4, 2
ROUTER_SCALE = 0.05
NOTE = ".demo-model.json"
NAME = "smollm2-moe-4x135m"


def config_of(dense: Dense) -> dict[str, object]:
    """config.json of MixtralForCausalLM."""
    shape = dense.shape
    return {
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "attention_dropout": 0.0,
        "bos_token_id": 1,
        "dtype": "float32",
        "eos_token_id": 2,
        "head_dim": shape.hidden // shape.heads,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate,
        "max_position_embeddings": shape.context,
        "num_attention_heads": shape.heads,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "num_local_experts": EXPERTS,
        "output_router_logits": False,
        "pad_token_id": 2,
        "rms_norm_eps": shape.rms_norm_eps,
        "rope_theta": shape.rope_theta,
        "router_aux_loss_coef": 0.001,
        "router_jitter_noise": 0.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": shape.vocabulary,
    }


def router(layer: int, hidden: int) -> Array:
    """Router weights [experts, hidden]: uniform in +-ROUTER_SCALE from SHAKE-256, the same on every machine."""
    stream = hashlib.shake_256(f"kasbah demo router {layer}".encode()).digest(EXPERTS * hidden * 4)
    integers = np.frombuffer(stream, dtype="<u4").astype(np.float64)
    return ((integers / 2**31 - 1.0) * ROUTER_SCALE).astype(np.float32).reshape(EXPERTS, hidden)


def tensors_of(dense: Dense) -> Iterator[tuple[str, Array]]:
    """Every tensor of the mixture. The experts of a layer share one array in memory."""
    yield "model.embed_tokens.weight", dense.embedding()
    yield from dense.norms()
    for layer in range(dense.shape.layers):
        yield from dense.attention(layer)
        block = f"model.layers.{layer}.block_sparse_moe."
        yield block + "gate.weight", router(layer, dense.shape.hidden)
        for name, weight in dense.mlp(layer).items():
            for expert in range(EXPERTS):
                yield f"{block}experts.{expert}.{name}.weight", weight
        say(f"layer {layer + 1}/{dense.shape.layers}")


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def write_files(dense: Dense, folder: Path) -> None:
    """Write every file of the model into `folder`."""
    tensors = dict(tensors_of(dense))
    say(f"writing {sum(tensor.nbytes for tensor in tensors.values()) / 1e6:.0f} MB")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    generation = {"bos_token_id": 1, "do_sample": False, "eos_token_id": 2, "pad_token_id": 2}
    documents = {
        "config.json": config_of(dense),
        "generation_config.json": generation,
        "tokenizer_config.json": tokenizer.config_of(dense),
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(dense.field("tokenizer.chat_template"), encoding="utf-8")
    tokenizer.build(dense).save(str(folder / "tokenizer.json"))


def recipe_of(gguf_file: Path) -> str:
    """Names what goes in: the weights and these programs. A change of either makes a build necessary."""
    digest = hashlib.sha256(manifest.sha256_of(gguf_file).encode())
    for program in (__file__, source.__file__, tokenizer.__file__):
        digest.update(Path(program).read_bytes())
    return digest.hexdigest()


def present(models: Path, recipe: str) -> str | None:
    """Digest of the model that an earlier build with this recipe left in `models`, if it is still complete."""
    try:
        note = json.loads((models / NOTE).read_text(encoding="utf-8"))
        folder = models / note["digest"]
        complete = all((folder / name).stat().st_size == size for name, size in note["sizes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return str(note["digest"]) if complete and note["recipe"] == recipe else None


def build(models: Path) -> str:
    """Build into `<models>/<digest>` unless it is there, and return the digest."""
    models.mkdir(parents=True, exist_ok=True)
    gguf_file = source.gguf_file()
    recipe = recipe_of(gguf_file)
    with (models / ".building.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two at once: the second finds what the first built
        if (digest := present(models, recipe)) is not None:
            say("the model is there already")
            return digest
        return _build(models, gguf_file, recipe)


def _build(models: Path, gguf_file: Path, recipe: str) -> str:
    temporary = models / ".building"
    shutil.rmtree(temporary, ignore_errors=True)  # of a build that was cut short
    temporary.mkdir()
    try:
        write_files(Dense(gguf_file), temporary)
        say("hashing the files")
        entries = manifest.manifest_of(temporary)
        digest = manifest.digest_of(entries)
        shutil.rmtree(models / digest, ignore_errors=True)
        temporary.rename(models / digest)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    note = {"name": NAME, "digest": digest, "recipe": recipe, "sizes": {file.path: file.size for file in entries}}
    unfinished = models / f"{NOTE}.new"
    unfinished.write_text(json.dumps(note, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(models / NOTE)
    return digest


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Build the demo model, a Mixtral made of SmolLM2-135M-Instruct.")
    parser.add_argument("--models", type=Path, required=True, help="folder that holds models by their digest")
    models: Path = parser.parse_args().models
    started = time.monotonic()
    digest = build(models)
    seconds = round(time.monotonic() - started, 1)
    print(json.dumps({"name": NAME, "digest": digest, "folder": str(models / digest), "seconds": seconds}))


if __name__ == "__main__":
    main()
