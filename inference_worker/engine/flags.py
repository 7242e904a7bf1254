"""The engine's command line and environment: what a deployment may ask for, and nothing else.

Flags come signed from the control plane; the list is short all the same, since some of vLLM's flags run code from the
model's folder (`--trust-remote-code`, plug-ins, templates by path), open a port, or reach for the network.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from inference_worker.contract.messages import Assigned, EngineSettings

MODULE = "vllm.entrypoints.openai.api_server"

# Flags that stand alone.
SWITCHES = frozenset({
    "--enable-prefix-caching",
    "--no-enable-prefix-caching",
    "--enable-chunked-prefill",
    "--no-enable-chunked-prefill",
    "--enable-auto-tool-choice",
    "--enable-expert-parallel",
    "--enable-return-routed-experts",
    "--enable-eplb",
    "--enforce-eager",
    "--disable-cascade-attn",
    "--async-scheduling",
    "--no-async-scheduling",
})  # fmt: skip

# Flags with one value, and what the value may look like. No value can be a path, a URL or JSON with either.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_WHOLE = re.compile(r"[0-9]{1,9}")
_FRACTION = re.compile(r"(0?\.[0-9]{1,4}|1(\.0)?)")
VALUES: Mapping[str, re.Pattern[str]] = {
    "--quantization": _NAME,
    "--kv-cache-dtype": _NAME,
    "--tool-call-parser": _NAME,
    "--reasoning-parser": _NAME,
    "--tokenizer-mode": re.compile("auto|slow|mistral"),
    "--runner": re.compile("auto|generate|pooling"),
    "--convert": re.compile("auto|none|embed|classify"),
    "--all2all-backend": _NAME,
    "--block-size": _WHOLE,
    "--seed": _WHOLE,
    "--max-num-batched-tokens": _WHOLE,
    "--max-logprobs": _WHOLE,
    "--data-parallel-size": _WHOLE,
    "--pipeline-parallel-size": _WHOLE,
    "--gpu-memory-utilization": _FRACTION,
}

_DTYPES = frozenset({"auto", "bfloat16", "float16", "float32", "half", "float"})

# Taken over from the worker's own environment; everything else stays behind, above all broker and tokens.
INHERITED = (
    "PATH", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES",
    "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES",
    "OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_TARGET_DEVICE",
)  # fmt: skip


class FlagRefused(ValueError):
    """A deployment asks for a flag or a value that is not allowed; the message names it."""


def extra_flags(extra: list[str]) -> list[str]:
    """Check `extra` against the list and return it as `--flag` or `--flag=value`. Raises FlagRefused."""
    checked: list[str] = []
    rest = list(extra)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag in SWITCHES:
            if equals:
                raise FlagRefused(f"engine flag {flag} takes no value")
            checked.append(flag)
            continue
        pattern = VALUES.get(flag)
        if pattern is None:
            raise FlagRefused(f"engine flag {flag[:60]!r} is not one that a deployment may set")
        if not equals:
            if not rest:
                raise FlagRefused(f"engine flag {flag} lacks its value")
            value = rest.pop(0)
        if not pattern.fullmatch(value):
            raise FlagRefused(f"engine flag {flag}: value {value[:60]!r} is not allowed")
        checked.append(f"{flag}={value}")
    return checked


def arguments(assigned: Assigned, folder: Path, socket: Path, *, gpu: bool) -> list[str]:
    """What follows the interpreter on the command line. Raises FlagRefused."""
    engine = assigned.engine
    for name in ("max_model_len", "max_num_seqs", "kv_cache_gib", "tensor_parallel_size"):
        if not 1 <= getattr(engine, name) <= 16_777_216:
            raise FlagRefused(f"engine setting {name} must be at least 1")
    if engine.dtype not in _DTYPES:
        raise FlagRefused(f"engine setting dtype: {engine.dtype[:20]!r} is not one of {', '.join(sorted(_DTYPES))}")
    if not assigned.name or assigned.name.startswith("-"):
        raise FlagRefused("the deployment's name may not be empty or start with a dash")
    return [
        "-m",
        MODULE,
        f"--model={folder}",
        f"--served-model-name={assigned.name}",
        f"--uds={socket}",
        f"--max-model-len={engine.max_model_len}",
        f"--max-num-seqs={engine.max_num_seqs}",
        f"--dtype={engine.dtype}",
        f"--kv-cache-memory-bytes={engine.kv_cache_gib * 2**30}",
        f"--tensor-parallel-size={engine.tensor_parallel_size}",
        "--load-format=safetensors",
        # Prompts stay out of the log: request logging is off unless asked for, and asking is not on the list.
        "--disable-uvicorn-access-log",
        "--uvicorn-log-level=warning",
        "--disable-fastapi-docs",
        *([] if gpu else _on_cpu(engine)),
        *extra_flags(engine.extra),
    ]


def _on_cpu(engine: EngineSettings) -> list[str]:
    """Without a GPU, compiling costs the start more than it gains, and one process is smaller and faster than two."""
    single = ["--distributed-executor-backend=uni"] if engine.tensor_parallel_size == 1 else []
    return ["--enforce-eager", *single]


def environment(settings: EngineSettings, home: Path, cache: Path, *, gpu: bool) -> dict[str, str]:
    """The whole environment of the engine; `home` is an empty private folder, `cache` keeps compiled kernels."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    if not gpu:
        kept.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        kept.setdefault("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0))))
        if settings.tensor_parallel_size == 1:
            kept["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return kept | {
        "HOME": str(home),
        "TMPDIR": str(home),
        "VLLM_CACHE_ROOT": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "VLLM_HOST_IP": "127.0.0.1",  # else it asks a public address which way out this machine has
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
