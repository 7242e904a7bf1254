"""The switches of thinking: the only variables of a chat template that a request may set (`chat_template_kwargs`).

A template is a program, and its variables are its input: others could replace the conversation, the tools or the
template itself, say things to the model that nobody classified, or make the engine work without end. So only these
names pass, with plain values; the gateway refuses the rest, and the worker refuses it again.
"""

from __future__ import annotations

from typing import Any

EFFORTS = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max"})
SWITCHES = frozenset({"enable_thinking", "thinking", "reasoning_effort"})


def is_allowed(name: str, value: Any) -> bool:
    """Whether a request may set this variable to this value."""
    if name not in SWITCHES:
        return False
    return value in EFFORTS if name == "reasoning_effort" else type(value) is bool
