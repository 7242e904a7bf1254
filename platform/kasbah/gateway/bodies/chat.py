"""POST /v1/chat/completions (OpenAI API reference, "Create chat completion")."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from typing import Annotated, ClassVar, Literal

import msgspec

from kasbah.common.errors import Invalid
from kasbah.gateway.bodies.base import MAX_PAIRS, NOT_SENT, Count, Generation, Logprobs, read_raw
from kasbah.gateway.bodies.schemas import SchemaBudget
from kasbah.gateway.bodies.thinking import Effort, TemplateSwitches

MAX_MESSAGES = 4096
MAX_TOOLS = 128
# What a body may hold by the ten thousand has gc=False: none of it can be part of a cycle, and each collection that its
# making causes would hold the loop.
_METADATA = msgspec.json.Decoder(dict[str, str])
ToolName = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.-]+$")]


class Part(msgspec.Struct, omit_defaults=True, gc=False):
    """A part of a message's content. Fields of other kinds of parts are not read, so nothing can be fetched."""

    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(msgspec.Struct, gc=False):
    """The function of a tool call; `arguments` is JSON as text. What SDKs add for their callers is not read."""

    name: ToolName
    arguments: str | None = ""

    def __post_init__(self) -> None:
        """No arguments are said in one way."""
        self.arguments = self.arguments or ""


class ToolCall(msgspec.Struct, gc=False):
    """A call that the model made in an earlier turn."""

    id: str
    function: CalledFunction
    type: Literal["function"] | None = "function"

    def __post_init__(self) -> None:
        """An SDK that puts a stream's deltas together may leave the only type out."""
        self.type = "function"


class Message(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """One turn of the conversation, as SDKs send it: an earlier answer comes back with all its fields, most null."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: Annotated[str, msgspec.Meta(max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCall], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    # what an SDK sends back of an earlier answer, and what means nothing to a text model
    annotations: msgspec.Raw = NOT_SENT
    parsed: msgspec.Raw = NOT_SENT
    audio: None = None
    function_call: None = None

    def check(self, where: str) -> None:
        """Raise Invalid where the turn lacks what its role needs or brings what no text model reads."""
        if self.role == "tool" and self.tool_call_id is None:
            raise Invalid("A tool's message names its tool_call_id.", param=f"{where}.tool_call_id")
        if self.content is None and self.role not in {"assistant", "tool"}:
            raise Invalid(
                f"A {self.role}'s message has a content; only an assistant's or a tool's may have none.",
                param=f"{where}.content",
            )
        if isinstance(self.content, list):
            for index, part in enumerate(self.content):
                _check_part(part, f"{where}.content[{index}]")

    def as_turn(self) -> Message:
        """The turn as a chat template should get it: said once and without nulls.

        A turn without content has an empty one, unless tool calls stand for it; a refusal is what was said; reasoning
        has one name, vLLM's.
        """
        content = self.content or self.refusal or (None if self.tool_calls else "")
        return Message(
            role=self.role,
            content=content,
            name=self.name,
            tool_calls=self.tool_calls or None,
            tool_call_id=self.tool_call_id,
            reasoning=self.reasoning or self.reasoning_content or None,
        )


def turns(messages: Iterable[Message]) -> list[Message]:
    """A conversation as the engine gets it."""
    return [message.as_turn() for message in messages]


def _check_part(part: Part, where: str) -> None:
    if part.type == "text" and part.text is None:
        raise Invalid("A part of type text has a text.", param=f"{where}.text")
    if part.type == "refusal" and part.refusal is None:
        raise Invalid("A part of type refusal has a refusal.", param=f"{where}.refusal")
    if part.type not in {"text", "refusal"}:
        raise Invalid(
            f"Parts of type {part.type[:40]} are not accepted: nothing is fetched on behalf of a request, and the"
            " models here read text. Send parts of type text.",
            param=f"{where}.type",
            code="unsupported_content",
        )


class Function(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A function that the model may call; `parameters` is JSON Schema."""

    name: ToolName
    description: str | None = None
    parameters: msgspec.Raw = NOT_SENT
    strict: bool | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool that the model may use."""

    type: Literal["function"]
    function: Function


def check_tools(tools: list[Tool] | None, budget: SchemaBudget) -> None:
    """Raise Invalid where the parameters of a tool are no schema that an engine can follow."""
    for index, tool in enumerate(tools or ()):
        tool.function.parameters = budget.read(tool.function.parameters, f"tools[{index}].function.parameters")


class NamedFunction(msgspec.Struct, forbid_unknown_fields=True):
    """The function of a forced choice."""

    name: ToolName


class NamedTool(msgspec.Struct, forbid_unknown_fields=True):
    """The tool that the model must use."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The schema that an answer must follow."""

    name: ToolName
    description: str | None = None
    schema: msgspec.Raw = NOT_SENT
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatBody(Generation, kw_only=True):
    """A conversation to go on with."""

    KEPT_BACK: ClassVar[tuple[str, ...]] = (
        *Generation.KEPT_BACK,
        "audio",
        "function_call",
        "functions",
        "metadata",
        "moderation",
        "modalities",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "verbosity",
        "web_search_options",
    )

    LIMITS: ClassVar[tuple[str, ...]] = ("max_completion_tokens", "max_tokens")

    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)]
    chat_template_kwargs: TemplateSwitches | None = None
    logprobs: bool | None = None
    top_logprobs: Logprobs | None = None
    max_completion_tokens: Count | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    metadata: msgspec.Raw = NOT_SENT
    modalities: list[Literal["text"]] | None = None
    prediction: msgspec.Raw = NOT_SENT
    prompt_cache_key: str | None = None
    prompt_cache_options: msgspec.Raw = NOT_SENT
    prompt_cache_retention: str | None = None
    safety_identifier: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    verbosity: str | None = None
    # what SDKs send as null, and what means nothing to a text model
    audio: None = None
    function_call: None = None
    functions: None = None
    moderation: None = None
    web_search_options: None = None

    def answers(self) -> int:
        return self.n or 1

    def completion_at_most(self, longest: int) -> int:
        return self.answers() * (self.limit() or longest)

    def with_limit(self, tokens: int) -> ChatBody:
        if self.limit() is not None:
            return self
        body = copy(self)
        body.max_completion_tokens = max(tokens, self.min_tokens or 1)
        return body

    def check_model(self, architecture: str) -> None:
        if self.chat_template_kwargs is not None:
            self.chat_template_kwargs.check(architecture)

    def check(self, longest: int) -> None:
        super().check(longest)
        for index, message in enumerate(self.messages):
            message.check(f"messages[{index}]")
        if self.top_logprobs and not self.logprobs:
            raise Invalid("top_logprobs needs logprobs: true.", param="top_logprobs")
        read_raw(_METADATA, self.metadata, MAX_PAIRS, "metadata")
        self._check_schemas()
        if self.tool_choice == "required" and not self.tools:
            raise Invalid("tool_choice: required needs tools.", param="tool_choice")
        if isinstance(self.tool_choice, NamedTool):
            names = {tool.function.name for tool in self.tools or ()}
            if self.tool_choice.function.name not in names:
                raise Invalid("tool_choice names a tool that is not among tools.", param="tool_choice")

    def _check_schemas(self) -> None:
        budget = SchemaBudget()
        form, schema = self.response_format, NOT_SENT
        if form is not None and form.json_schema is not None:
            schema = form.json_schema.schema = budget.read(
                form.json_schema.schema, "response_format.json_schema.schema"
            )
        if form is not None and form.type == "json_schema" and schema is NOT_SENT:
            raise Invalid("A json_schema format has a schema.", param="response_format.json_schema")
        check_tools(self.tools, budget)

    def as_sent(self) -> ChatBody:
        body = super().as_sent()
        body.messages = turns(self.messages)
        if not self.tools:
            body.tools = body.tool_choice = body.parallel_tool_calls = None
        return body


DECODER = msgspec.json.Decoder(ChatBody)
