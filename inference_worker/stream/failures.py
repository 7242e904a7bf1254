"""Failures as a client is to see them: the engine's reason where the request is wrong, else nothing of its insides.

An engine may quote the value that it refuses. A message travels on into logs and audit records: quotes are cut.
"""

from __future__ import annotations

import re

import msgspec

from inference_worker.contract.bounds import line
from inference_worker.stream.chunks import EngineError, ErrorBody

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

# A validation error of pydantic as vLLM prints it: {'type': ..., 'loc': ..., 'msg': '...', 'input': <the value>}
_VALIDATION = re.compile(r"'msg': (?:'([^']*)'|\"([^\"]*)\")")


def of_answer(status: int, body: bytes) -> Failure:
    """Of an answer that is not 200."""
    if not 400 <= status < 500:
        return ENGINE_FAILED
    try:
        error = msgspec.json.decode(body, type=ErrorBody).error
    except ValueError:
        return Failure(status, _code(status, ""), f"the inference engine refused the request (HTTP {status})")
    return _refusal(status, error)


def of_error(error: EngineError) -> Failure:
    """Of an error object inside a stream, whose code is an HTTP status."""
    status = error.code if isinstance(error.code, int) else 500
    return _refusal(status, error) if 400 <= status < 500 else ENGINE_FAILED


def _refusal(status: int, error: EngineError) -> Failure:
    message = _without_input(error.message, error.param)
    param = line(error.param.removeprefix("body.")) if error.param else None
    return Failure(status, _code(status, message), message, param)


def _without_input(message: str, param: str | None) -> str:
    if "'input':" in message or "input_value=" in message:
        reasons = ["".join(found) for found in _VALIDATION.findall(message)]
        message = f"{param or 'the request'}: {reasons[0] if reasons else 'not valid'}"
    return message if len(message) <= LONGEST else message[:LONGEST] + "..."


def _code(status: int, message: str) -> str:
    if "maximum context length" in message:
        return "context_length_exceeded"
    return "model_not_found" if status == 404 else "invalid_request"
