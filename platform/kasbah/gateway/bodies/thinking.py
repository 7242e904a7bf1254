"""`chat_template_kwargs`: the switches of thinking, and which families of models read which.

Nothing else of a template's variables passes (inference_worker.contract.thinking says why). A template does not
complain about a variable that it does not read: a model would think on though it was told not to. So a switch that a
known family does not read is refused, with the one that it does. A model that is not listed gets what was sent.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from kasbah.common.errors import Invalid

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

# By the architecture that a model's config.json names: the family, and what its chat template reads.
FAMILIES: tuple[tuple[re.Pattern[str], str, frozenset[str]], ...] = tuple(
    (re.compile(pattern), family, frozenset(switches))
    for pattern, family, switches in (
        (r"Qwen3", "Qwen3", {"enable_thinking"}),
        (r"Glm4Moe|Glm5|GlmMoe", "GLM 4.5 and later", {"enable_thinking"}),
        (r"DeepseekV4", "DeepSeek V4", {"thinking", "enable_thinking", "reasoning_effort"}),
        (r"DeepseekV3", "DeepSeek V3", {"thinking", "enable_thinking"}),
        (r"Granite", "Granite", {"thinking"}),
        (r"GptOss", "gpt-oss", {"reasoning_effort"}),
        (r"Mistral3|Mistral4|MistralLarge3", "Mistral with reasoning", {"reasoning_effort"}),
        (r"Kimi", "Kimi", {"thinking", "enable_thinking"}),
        (r"HunYuan", "Hunyuan", {"enable_thinking"}),
        (r"Ernie4_5", "ERNIE 4.5", {"enable_thinking"}),
        (r"Nemotron", "Nemotron", {"enable_thinking"}),
        (r"Gemma4", "Gemma 4", {"enable_thinking"}),
        (r"SmolLM3", "SmolLM 3", {"enable_thinking"}),
        (r"Exaone4", "EXAONE 4", {"enable_thinking"}),
    )
)


class TemplateSwitches(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a request may say to the chat template."""

    enable_thinking: bool | None = None
    thinking: bool | None = None
    reasoning_effort: Effort | None = None

    def check(self, architecture: str) -> None:
        """Raise Invalid where the model's family is known and does not read what was set."""
        given = {name for name in self.__struct_fields__ if getattr(self, name) is not None}
        for pattern, family, switches in FAMILIES:
            if pattern.match(architecture):
                if unread := sorted(given - switches):
                    raise Invalid(
                        f"{unread[0]} means nothing to this model: {family} reads {' and '.join(sorted(switches))}.",
                        param=f"chat_template_kwargs.{unread[0]}",
                    )
                return
