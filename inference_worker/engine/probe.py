"""Questions to an engine that tell whether it works."""

from __future__ import annotations

import msgspec

from inference_worker.contract.bounds import line
from inference_worker.engine.client import EngineClient, EngineLost


class ProbeFailed(EngineLost):
    """The engine did not do what a working engine does."""


class _Version(msgspec.Struct):
    version: str


async def healthy(client: EngineClient, timeout: float) -> bool:
    """Whether GET /health answers 200."""
    try:
        status, _ = await client.ask("GET", "/health", timeout=timeout)
    except (EngineLost, TimeoutError):
        return False
    return status == 200


async def version(client: EngineClient) -> str:
    """For receipts: "vllm 0.32.0"."""
    try:
        status, body = await client.ask("GET", "/version", timeout=10)
        return line(f"vllm {msgspec.json.decode(body, type=_Version).version}", 60) if status == 200 else "vllm"
    except (EngineLost, TimeoutError, ValueError):
        return "vllm"


async def generate(client: EngineClient, model: str, timeout: float) -> None:
    """Have it generate one token, or embed one word where the model only embeds. Raises ProbeFailed."""
    questions = {
        "/v1/completions": {"model": model, "prompt": "a", "max_tokens": 1},
        "/v1/embeddings": {"model": model, "input": "a"},
    }
    status = 0
    for path, body in questions.items():
        try:
            status, _ = await client.ask("POST", path, msgspec.json.encode(body), timeout=timeout)
        except TimeoutError as error:
            raise ProbeFailed(f"the engine hangs: no token within {timeout:.0f} s") from error
        if status == 200:
            return
        if status not in (404, 405):
            break
    raise ProbeFailed(f"the engine is up but generates nothing (HTTP {status})")
