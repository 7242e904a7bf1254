"""POST /v1/embeddings (OpenAI API reference, "Create embeddings")."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from kasbah.common.errors import Invalid
from kasbah.gateway.bodies.base import Body, TokenIds

MAX_INPUTS = 2048


class EmbeddingBody(Body, kw_only=True):
    """Texts, or token ids, to embed. `encoding_format`: numbers, or base64 of little-endian float32."""

    input: (
        str
        | Annotated[list[str | Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | TokenIds], msgspec.Meta(min_length=1)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, msgspec.Meta(ge=1, le=65_536)] | None = None

    @property
    def readable(self) -> bool:
        return isinstance(self.input, str) or isinstance(self.input[0], str)

    def prompts(self) -> int:
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return 1
        return len(self.input)

    def check(self, longest: int) -> None:
        if isinstance(self.input, list) and len({type(item) for item in self.input}) != 1:
            raise Invalid(
                "input is a text, a list of texts, token ids, or a list of lists of token ids.", param="input"
            )
        if self.prompts() > MAX_INPUTS:
            raise Invalid(f"At most {MAX_INPUTS} inputs a request; send the rest in another.", param="input")


DECODER = msgspec.json.Decoder(EmbeddingBody)
