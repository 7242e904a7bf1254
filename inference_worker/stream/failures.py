"""Failures as a client is to see them: the engine's reason where the request is wrong, else nothing of its insides.

An engine may quote the value that it refuses. A message travels on into logs and audit records: quotes are cut. It
also speaks to whoever started it, of flags, files and modules. So only plain prose leaves (`_is_prose`); for the rest
the client gets words of ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from inference_worker.contract.bounds import line
from inference_worker.engine.grammars import Verdict
from inference_worker.stream.chunks import EngineError, ErrorBody
from inference_worker.stream.request import ADDED, CHAT, COMPLETIONS, EMBEDDINGS, EngineRequest

LONGEST = 500


class Failure(msgspec.Struct, frozen=True):
    """HTTP status, code, message and parameter; `retry`: another worker may succeed."""

    status: int
    code: str
    message: str
    param: str | None = None
    retry: bool = False


ENGINE_LOST = Failure(503, "engine_lost", "the inference engine ended before the answer was complete", retry=True)
ENGINE_FAILED = Failure(500, "engine_failed", "the inference engine failed on this request", retry=True)
LEAVING = Failure(503, "worker_stopping", "the inference worker was stopped before the answer was complete", retry=True)
WORKER = Failure(500, "worker_failed", "the inference worker failed on this request", retry=True)
NO_TOOLS = Failure(
    400,
    "unsupported_tools",
    "This model is served without support for tools. Leave tools and tool_choice out, use another model, or ask your"
    " administrator to deploy it with a parser for its tool calls.",
    "tools",
)
NO_TEMPLATE = Failure(
    400,
    "unsupported_endpoint",
    "This model has no template for conversations. Send it a prompt at /v1/completions.",
    "messages",
)
TURNS = Failure(
    400,
    "invalid_request",
    "This model takes the turns of user and assistant one after the other, and a system turn first or not at all."
    " Put turns of the same role together.",
    "messages",
)
NO_EMBEDDINGS = Failure(
    400,
    "unsupported_endpoint",
    "This model generates text and makes no embeddings. Ask for embeddings with a model that makes them;"
    " GET /v1/models lists yours.",
    "model",
)
NO_TEXT = Failure(
    400,
    "unsupported_endpoint",
    "This model does not generate text. Ask it at /v1/embeddings, and here a model that generates;"
    " GET /v1/models lists yours.",
    "model",
)
# What an engine says to its operator, and what that means for a client.
_MEANINGS = (
    (re.compile(r"tool-call-parser|enable-auto-tool-choice|\btool parser", re.IGNORECASE), NO_TOOLS),
    (
        re.compile(r"\bchat[ _]template\b.*\b(no longer allowed|not define|must provide|no chat)", re.I | re.S),
        NO_TEMPLATE,
    ),
    (re.compile(r"roles? must alternate|only .*roles? (is|are) supported|system role not supported", re.I), TURNS),
)
_NO_ROUTE = re.compile(r"\bdoes not support\b.* API\b")

# Of schemas that were tried before the engine saw them (engine/grammars.py).
_WAY_OUT = "in response_format or in a tool; simplify it"
SCHEMAS = {
    Verdict.LATE: Failure(400, "schema_too_complex", f"a JSON schema takes too long to prepare, {_WAY_OUT}"),
    Verdict.INVALID: Failure(400, "invalid_schema", f"a JSON schema cannot be made a grammar, {_WAY_OUT}"),
    Verdict.EMPTY: Failure(400, "invalid_schema", f"no value can follow a JSON schema, {_WAY_OUT}"),
}

# A validation error of pydantic as vLLM prints it: {'type': ..., 'loc': ..., 'msg': '...', 'input': <the value>}
_VALIDATION = re.compile(r"'msg': (?:'([^']*)'|\"([^\"]*)\")")

# Prose: words, numbers, and the names of fields. No word of it can be a flag, path, module, variable or address.
_WORD = re.compile(
    r"[\"'`(\[]*(?:(?P<name>[a-z]+(?:_[a-z]+)+)|[A-Z]?[a-z]+(?:['-][a-z]+)*|[A-Z]+|[+-]?\d+(?:\.\d+)?|[=<>]=?|[+-])"
    r"(?:=[\d.]+)?[\"'`)\].,;:!?]*"
)
_INSIDES = re.compile(
    r"traceback|\bvllm\b|\btorch\b|\bcuda\b|pydantic|jinja|grammar\b|\btransformers\b|kv[ _]transfer|cache[ _]salt",
    re.IGNORECASE,
)
_FIELDS = frozenset(
    {"max_tokens", "max_completion_tokens", "min_tokens", "response_format", "json_schema", "tool_choice", "top_p"}
)
_PROMPTS = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}


def of_answer(status: int, body: bytes, asked: EngineRequest | None = None) -> Failure:
    """Of an answer that is not 200."""
    try:
        error = msgspec.json.decode(body, type=ErrorBody).error
    except ValueError:
        error = EngineError()
    if status == 404 or _NO_ROUTE.search(error.message):
        return NO_EMBEDDINGS if asked is None or asked.path == EMBEDDINGS else NO_TEXT
    return _refusal(status, error, asked) if 400 <= status < 500 else ENGINE_FAILED


def of_error(error: EngineError, asked: EngineRequest | None = None) -> Failure:
    """Of an error object inside a stream, whose code is an HTTP status."""
    status = error.code if isinstance(error.code, int) else 500
    return _refusal(status, error, asked) if 400 <= status < 500 else ENGINE_FAILED


def _refusal(status: int, error: EngineError, asked: EngineRequest | None) -> Failure:
    for pattern, meaning in _MEANINGS:
        if pattern.search(error.message):
            return meaning
    param = line(error.param.removeprefix("body.")) if error.param else None
    fields = asked.fields.keys() - ADDED if asked is not None else {param}
    if "maximum context length" in error.message or "maximum model length" in error.message:
        param = _PROMPTS.get(asked.path) if asked is not None else param
        return Failure(status, "context_length_exceeded", _words(error.message, "It is too long.", fields), param)
    if param is not None and re.split(r"[.\[]", param)[0] not in fields:
        param = None  # a name of the engine's own
    general = f"The model cannot take this request{f': see {param}' if param else ''} (HTTP {status})."
    return Failure(status, "invalid_request", _words(_without_input(error.message, param), general, fields), param)


def _without_input(message: str, param: str | None) -> str:
    if "'input':" in message or "input_value=" in message:
        reasons = ["".join(found) for found in _VALIDATION.findall(message)]
        return f"{param or 'the request'}: {reasons[0] if reasons else 'not valid'}"
    return message


def _words(message: str, instead: str, fields: Collection[object]) -> str:
    """The message where it is prose, else `instead`."""
    if not _is_prose(message, fields):
        return instead
    message = " ".join(message.split())
    return message if len(message) <= LONGEST else message[:LONGEST] + "..."


def _is_prose(message: str, fields: Collection[object]) -> bool:
    if not message or _INSIDES.search(message):
        return False
    for word in message.split():
        found = _WORD.fullmatch(word)
        if found is None or ((name := found["name"]) is not None and name not in fields and name not in _FIELDS):
            return False
    return True
