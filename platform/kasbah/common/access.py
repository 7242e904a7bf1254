"""What a management endpoint declares about who may use it. No web framework here: its settings lead to this."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

AUTHENTICATED = "authenticated"  # the permission that everyone who is known has
PUBLIC = "public"  # nobody need be known


@runtime_checkable
class Guarded(Protocol):
    """An endpoint that says what it needs; one that does not is denied to everybody."""

    kwargs: dict[str, Any]
    allowed_methods: list[str]
    tenant: Any

    def permission_needed(self) -> str | None:
        """The permission of what is asked now; None denies."""
