"""The inference endpoints: each is a path, what its body must be, and how its answers are named."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from kasbah.gateway.bodies import chat, completion, embedding, tokenize


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`path` is the client's and the engine's; answers are named `<prefix>-<request id>`."""

    path: str
    decoder: msgspec.json.Decoder[Any]
    prefix: str


ENDPOINTS = {
    endpoint.path: endpoint
    for endpoint in (
        Endpoint("/v1/chat/completions", chat.DECODER, "chatcmpl"),
        Endpoint("/v1/completions", completion.DECODER, "cmpl"),
        Endpoint("/v1/embeddings", embedding.DECODER, "embd"),
        Endpoint("/tokenize", tokenize.DECODER, "tok"),
    )
}
