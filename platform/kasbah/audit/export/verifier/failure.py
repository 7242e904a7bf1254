"""What does not hold, and how it is said."""

from __future__ import annotations

from typing import Any

Facts = dict[str, Any]


class Failed(Exception):
    """What does not hold. `name` is stable; there is one for each known attack."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name
