"""POST /tokenize (vLLM's): the token ids of a text or of a conversation. It reads a prompt, so it is a request like
any other: decided, sealed, audited."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from kasbah.common.errors import Invalid
from kasbah.gateway.bodies.base import Body
from kasbah.gateway.bodies.chat import MAX_MESSAGES, MAX_TOOLS, Message, Tool, check_tools, turns
from kasbah.gateway.bodies.schemas import SchemaBudget
from kasbah.gateway.bodies.thinking import TemplateSwitches

BESIDE_MESSAGES = ("tools", "add_generation_prompt", "chat_template_kwargs")


class TokenizeBody(Body, kw_only=True):
    """Either `prompt` or `messages`."""

    prompt: str | None = None
    messages: Annotated[list[Message], msgspec.Meta(min_length=1, max_length=MAX_MESSAGES)] | None = None
    tools: Annotated[list[Tool], msgspec.Meta(max_length=MAX_TOOLS)] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    return_token_strs: bool | None = None
    chat_template_kwargs: TemplateSwitches | None = None

    def check(self, longest: int) -> None:
        if (self.prompt is None) == (self.messages is None):
            raise Invalid("Send either prompt or messages.", param="prompt")
        for name in BESIDE_MESSAGES:
            if self.prompt is not None and getattr(self, name) is not None:
                raise Invalid(f"{name} goes with messages.", param=name)
        for index, message in enumerate(self.messages or ()):
            message.check(f"messages[{index}]")
        check_tools(self.tools, SchemaBudget())

    def check_model(self, architecture: str) -> None:
        if self.chat_template_kwargs is not None:
            self.chat_template_kwargs.check(architecture)

    def as_sent(self) -> TokenizeBody:
        body = super().as_sent()
        if self.messages is not None:
            body.messages = turns(self.messages)
        return body

    def prompt_at_most(self, size: int, longest: int) -> int:
        """Nothing is generated and nothing is charged."""
        return 0


DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder(TokenizeBody)
