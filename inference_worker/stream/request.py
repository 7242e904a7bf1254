"""What is asked of the engine: the client's body with what the platform must add.

Only the few fields that are looked at become objects, the rest stays JSON as it came: a long conversation would hold
the event loop, and with it the streams of all others and the worker's reports.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
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

_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_SEVERAL = re.compile(rb'\[\s*["\[]')
_NULL = b"null"

# What /tokenize takes of a chat request, so that its prompt is counted as the engine would read it.
_TOKENIZED = ("model", "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")


class RequestRefused(ValueError):
    """The request cannot be passed on; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class EngineRequest(msgspec.Struct, frozen=True):
    """A request ready for the engine, its fields as JSON; `n` choices for each of `prompts`."""

    path: str
    body: bytes
    stream: bool
    fields: dict[str, msgspec.Raw]
    n: int = 1
    prompts: int = 1


def prepare(payload: Payload, *, model: str, salt: str) -> EngineRequest:
    """Check and complete a request: the deployment's own model name, usage in streams, the tenant's cache salt.

    Raises RequestRefused.
    """
    if payload.path not in PATHS:
        raise RequestRefused(f"the worker does not serve {payload.path[:60]!r}")
    try:
        fields = _FIELDS.decode(payload.body)
    except msgspec.ValidationError as error:
        raise RequestRefused("the body is not a JSON object") from error
    except msgspec.DecodeError as error:
        raise RequestRefused("the body is not JSON") from error
    for name in FORBIDDEN & fields.keys():
        if _value(fields, name) is not None:
            raise RequestRefused(f"{name} may not be set by a request", name)
    _check_switches(_value(fields, "chat_template_kwargs"))
    generating = payload.path in GENERATING
    for name in DROPPED:
        fields.pop(name, None)
    added: dict[str, Any] = {"model": model}
    if generating or payload.path == EMBEDDINGS:
        added["cache_salt"] = salt
    if generating:
        added["stream"] = payload.stream
        if payload.stream:
            added["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
    elif payload.stream:
        raise RequestRefused(f"{payload.path} does not stream", "stream")
    fields |= {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in added.items()}
    body = msgspec.json.encode(fields)
    return EngineRequest(
        payload.path, body, payload.stream, fields, _whole(_value(fields, "n")), _prompts(fields.get("prompt"))
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


def schemas_of(asked: Mapping[str, msgspec.Raw]) -> list[Any]:
    """The JSON schemas of a chat request that the engine would make a grammar of: of its format, of the tools that the
    model must use, and of tools that are strict."""
    fields = {name: _value(asked, name) for name in ("response_format", "tool_choice", "tools")}
    found = []
    form = fields["response_format"]
    if isinstance(form, dict) and isinstance(form.get("json_schema"), dict):
        found.append(form["json_schema"].get("schema"))
    choice = fields["tool_choice"]
    named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
    for tool in fields["tools"] or ():
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
        kept = {name: request.fields[name] for name in _TOKENIZED if name in request.fields}
        return msgspec.json.encode({name: value for name, value in kept.items() if bytes(value) != _NULL})
    text = request.fields.get("prompt" if request.path == COMPLETIONS else "input")
    if text is None or not bytes(text).startswith(b'"'):
        return None
    return msgspec.json.encode({"model": request.fields["model"], "prompt": text})


def _value(fields: Mapping[str, msgspec.Raw], name: str) -> Any:
    """What one field says; None where it is not there. Raises RequestRefused where no program holds it."""
    try:
        return msgspec.json.decode(fields[name]) if name in fields else None
    except msgspec.DecodeError as error:
        raise RequestRefused(f"{name} cannot be read", name) from error


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 1


def _prompts(prompt: msgspec.Raw | None) -> int:
    """Number of prompts: a list of texts, or of lists of tokens, is several; a list of tokens is one."""
    return len(_LIST.decode(prompt)) if prompt is not None and _SEVERAL.match(bytes(prompt)) else 1
