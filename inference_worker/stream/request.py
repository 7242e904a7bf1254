"""What is asked of the engine: the client's body with what the platform must add."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec

from inference_worker.contract import thinking
from inference_worker.contract.messages import Payload

CHAT, COMPLETIONS, EMBEDDINGS, TOKENIZE = "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize"
PATHS = frozenset({CHAT, COMPLETIONS, EMBEDDINGS, TOKENIZE})
GENERATING = frozenset({CHAT, COMPLETIONS})

# Fields by which a request could load, fetch or run something of its own choice. The gateway refuses them first;
# here they are refused again, because this is the last place.
FORBIDDEN = frozenset(
    {"chat_template", "mm_processor_kwargs", "media_io_kwargs", "kv_transfer_params", "ec_transfer_params"}
)
# Fields of vLLM's own that are not a client's to set: they are left out.
DROPPED = ("stream_options", "request_id", "priority", "cache_salt")
# What the platform sets besides; no client knows of it.
ADDED = frozenset({"cache_salt", "stream_options"})

# What /tokenize takes of a chat request, so that its prompt is counted as the engine would read it.
_TOKENIZED = ("model", "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")


class RequestRefused(ValueError):
    """The request cannot be passed on; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class EngineRequest(msgspec.Struct, frozen=True):
    """A request ready for the engine; `n` choices for each of `prompts`."""

    path: str
    body: bytes
    stream: bool
    fields: dict[str, Any]
    n: int = 1
    prompts: int = 1


def prepare(payload: Payload, *, model: str, salt: str) -> EngineRequest:
    """Check and complete a request: the deployment's own model name, usage in streams, the tenant's cache salt.

    Raises RequestRefused.
    """
    if payload.path not in PATHS:
        raise RequestRefused(f"the worker does not serve {payload.path[:60]!r}")
    try:
        fields = msgspec.json.decode(payload.body)
    except msgspec.DecodeError as error:
        raise RequestRefused("the body is not JSON") from error
    if not isinstance(fields, dict):
        raise RequestRefused("the body is not a JSON object")
    for name in FORBIDDEN & fields.keys():
        if fields[name] is not None:
            raise RequestRefused(f"{name} may not be set by a request", name)
    _check_switches(fields.get("chat_template_kwargs"))
    generating = payload.path in GENERATING
    for name in DROPPED:
        fields.pop(name, None)
    fields["model"] = model
    if generating or payload.path == EMBEDDINGS:
        fields["cache_salt"] = salt
    if generating:
        fields["stream"] = payload.stream
        if payload.stream:
            fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    elif payload.stream:
        raise RequestRefused(f"{payload.path} does not stream", "stream")
    return EngineRequest(
        payload.path, msgspec.json.encode(fields), payload.stream, fields, _whole(fields.get("n")), _prompts(fields)
    )


def _check_switches(variables: Any) -> None:
    """Only the switches of thinking, with plain values, are a request's to set (contract.thinking)."""
    name = "chat_template_kwargs"
    if variables is None:
        return
    if not isinstance(variables, dict):
        raise RequestRefused(f"{name} is an object", name)
    for variable, value in variables.items():
        if not thinking.is_allowed(variable, value):
            raise RequestRefused(f"{variable[:40]!r} may not be set in {name} by a request", name)


def schemas_of(fields: dict[str, Any]) -> list[Any]:
    """The JSON schemas of a chat request that the engine would make a grammar of: of its format, of the tools that the
    model must use, and of tools that are strict."""
    found = []
    form = fields.get("response_format")
    if isinstance(form, dict) and isinstance(form.get("json_schema"), dict):
        found.append(form["json_schema"].get("schema"))
    choice = fields.get("tool_choice")
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    for tool in fields.get("tools") or ():
        function = tool.get("function") or {}
        if choice == "required" or function.get("strict") or (named is not None and named == function.get("name")):
            found.append(function.get("parameters"))
    return [schema for schema in found if isinstance(schema, dict)]


def cache_salt(key: bytes, tenant: str, epoch: int) -> str:
    """The salt of a tenant's prefix cache: stable within an epoch, and of no use to guess another tenant's."""
    return hmac.new(key, f"{tenant} {epoch}".encode(), hashlib.sha256).hexdigest()


def to_count(request: EngineRequest) -> bytes | None:
    """Body for /tokenize that counts the prompt of a request; None where it is given otherwise than as one text."""
    if request.path == CHAT:
        kept = {name: request.fields[name] for name in _TOKENIZED if request.fields.get(name) is not None}
        return msgspec.json.encode(kept)
    text = request.fields.get("prompt" if request.path == COMPLETIONS else "input")
    if not isinstance(text, str):
        return None
    return msgspec.json.encode({"model": request.fields["model"], "prompt": text})


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 1


def _prompts(fields: dict[str, Any]) -> int:
    """Number of prompts: a list of texts, or of lists of tokens, is several; a list of tokens is one."""
    prompt = fields.get("prompt")
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], (str, list)):
        return len(prompt)
    return 1
