"""POST /v1/completions (OpenAI API reference, "Create completion")."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec

from kasbah.common.errors import Invalid
from kasbah.gateway.bodies.base import Generation, Logprobs, TokenIds

MAX_PROMPTS = 64
DEFAULT_MAX_TOKENS = 16  # OpenAI's and vLLM's


class CompletionBody(Generation, kw_only=True):
    """A text to go on with: one or several, as text or as token ids."""

    KEPT_BACK: ClassVar[tuple[str, ...]] = (*Generation.KEPT_BACK, "best_of", "suffix")

    prompt: (
        str
        | Annotated[list[str | Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | TokenIds], msgspec.Meta(min_length=1)]
    )
    best_of: Annotated[int, msgspec.Meta(ge=1, le=16)] | None = None
    echo: bool | None = None
    logprobs: Logprobs | None = None
    suffix: str | None = None

    @property
    def readable(self) -> bool:
        return isinstance(self.prompt, str) or isinstance(self.prompt[0], str)

    def prompts(self) -> int:
        if isinstance(self.prompt, str) or isinstance(self.prompt[0], int):
            return 1
        return len(self.prompt)

    def answers(self) -> int:
        return self.prompts() * (self.n or 1)

    def completion_at_most(self, longest: int) -> int:
        return self.answers() * (self.max_tokens or DEFAULT_MAX_TOKENS)

    def check(self, longest: int) -> None:
        super().check(longest)
        if isinstance(self.prompt, list) and len({type(item) for item in self.prompt}) != 1:
            raise Invalid(
                "prompt is a text, a list of texts, token ids, or a list of lists of token ids.", param="prompt"
            )
        if self.prompts() > MAX_PROMPTS:
            raise Invalid(f"At most {MAX_PROMPTS} prompts a request; send the rest in another.", param="prompt")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise Invalid("best_of may only equal n: answers that are thrown away are not made here.", param="best_of")
        if self.suffix:
            raise Invalid("suffix is not supported by these models; leave it out.", param="suffix")


DECODER = msgspec.json.Decoder(CompletionBody)
