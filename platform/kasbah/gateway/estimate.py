"""What a request may use: reserved before it runs, and never less than it then uses.

A conversation that names no limit gets one, which the engine is told as well: so little is reserved that a modest
limit a minute admits it, and a quota still cannot be overspent. What is not used comes back at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from kasbah.gateway.bodies.base import Body


@dataclass(frozen=True, slots=True)
class Estimate:
    """Tokens that may be used at most, and the body whose limits make that true."""

    body: Body
    prompt: int
    completion: int


def of(body: Body, size: int, longest: int, at_once: int | None, default: int) -> Estimate:
    """Of a body of `size` bytes for a model with a context of `longest` tokens.

    An answer without a limit may have `default` tokens, or as many as the context or the narrowest limit a minute
    (`at_once`, None: none) leave beside the prompt; at least one, which the meter then may refuse. vLLM ends an
    answer where its context is full, so a prompt and one answer never have more than `longest` tokens together.
    """
    prompt = body.prompt_at_most(size, longest)
    room = min(default, longest)
    if at_once is not None:
        room = min(room, (at_once - prompt) // max(1, body.answers()))
    limited = body.with_limit(max(1, room))
    completion = min(limited.completion_at_most(longest), longest * body.answers() - prompt)
    return Estimate(limited, prompt, max(0, completion))
