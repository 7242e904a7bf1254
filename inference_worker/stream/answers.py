"""What of an engine's answers leaves: the documented fields and no other (docs/developer/reference.md, "Answers").

Engines add fields of their own, such as token ids, expert routes or transfers of their caches. A structure here names
what may leave; a field that is not named is dropped by being decoded. Absent and null stay apart.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from inference_worker.contract.bounds import Tokens

Scalar = Any  # a text, a number or null: what these fields hold by OpenAI's API reference


class PromptDetails(msgspec.Struct):
    """Parts of the prompt's tokens."""

    cached_tokens: Scalar = UNSET


class CompletionDetails(msgspec.Struct):
    """Parts of the answer's tokens."""

    reasoning_tokens: Scalar = UNSET


class TokenCounts(msgspec.Struct):
    """Tokens as an engine counts them."""

    prompt_tokens: Tokens = 0
    total_tokens: Tokens | UnsetType = UNSET
    completion_tokens: Tokens | None = 0
    prompt_tokens_details: PromptDetails | UnsetType | None = UNSET
    completion_tokens_details: CompletionDetails | UnsetType | None = UNSET


class CalledFunction(msgspec.Struct):
    """The function of a call, or a piece of it."""

    name: Scalar = UNSET
    arguments: Scalar = UNSET


class ToolCall(msgspec.Struct):
    """A call of a tool, or a piece of it."""

    index: Scalar = UNSET
    id: Scalar = UNSET
    type: Scalar = UNSET
    function: CalledFunction | UnsetType | None = UNSET


class AnswerMessage(msgspec.Struct):
    """The message of a choice, or the delta of one."""

    role: Scalar = UNSET
    content: Scalar = UNSET
    refusal: Scalar = UNSET
    reasoning: Scalar = UNSET
    reasoning_content: Scalar = UNSET
    annotations: UnsetType | None = UNSET
    audio: UnsetType | None = UNSET
    function_call: CalledFunction | UnsetType | None = UNSET
    tool_calls: list[ToolCall] | UnsetType | None = UNSET


class TopLogprob(msgspec.Struct):
    """One of the likeliest tokens at a place."""

    token: Scalar = UNSET
    logprob: Scalar = UNSET
    bytes: list[int] | UnsetType | None = UNSET


class TokenLogprob(TopLogprob):
    """A token of the answer."""

    top_logprobs: list[TopLogprob] | UnsetType | None = UNSET


class Logprobs(msgspec.Struct):
    """Those of a chat (`content`, `refusal`) or of a text completion (the others)."""

    content: list[TokenLogprob] | UnsetType | None = UNSET
    refusal: list[TokenLogprob] | UnsetType | None = UNSET
    text_offset: list[int] | UnsetType = UNSET
    token_logprobs: list[float | None] | UnsetType = UNSET
    tokens: list[str] | UnsetType = UNSET
    top_logprobs: list[dict[str, float] | None] | UnsetType | None = UNSET


class Choice(msgspec.Struct):
    """One choice of an answer or of a chunk."""

    index: int = 0
    message: AnswerMessage | UnsetType = UNSET
    delta: AnswerMessage | UnsetType = UNSET
    text: str | UnsetType | None = UNSET
    logprobs: Logprobs | UnsetType | None = UNSET
    finish_reason: Scalar = UNSET
    stop_reason: Scalar = UNSET

    @property
    def has_content(self) -> bool:
        """Whether a chunk's choice says anything besides the role."""
        delta = self.delta
        return bool(self.text or self.finish_reason) or (
            delta is not UNSET
            and bool(
                delta.content
                or delta.reasoning
                or delta.reasoning_content
                or delta.refusal
                or delta.tool_calls
                or delta.function_call
            )
        )


class Generated(msgspec.Struct):
    """The answer of a chat or text completion, or a chunk of it."""

    id: Scalar = UNSET
    object: Scalar = UNSET
    created: Scalar = UNSET
    model: Scalar = UNSET
    choices: list[Choice] = []
    service_tier: Scalar = UNSET
    system_fingerprint: Scalar = UNSET
    usage: TokenCounts | UnsetType | None = UNSET


class Vector(msgspec.Struct):
    """One embedding, as numbers or as base64: handed on as it came."""

    index: Scalar = UNSET
    object: Scalar = UNSET
    embedding: Raw | UnsetType = UNSET


class Embedded(msgspec.Struct):
    """The answer to a request for embeddings."""

    id: Scalar = UNSET
    object: Scalar = UNSET
    created: Scalar = UNSET
    model: Scalar = UNSET
    data: list[Vector] = []
    usage: TokenCounts | UnsetType | None = UNSET


class Tokenized(msgspec.Struct):
    """The answer of /tokenize."""

    count: Tokens = 0
    max_model_len: Scalar = UNSET
    tokens: Raw | UnsetType = UNSET
    token_strs: Raw | UnsetType = UNSET
