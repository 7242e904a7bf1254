"""What other apps know and an export needs. This app may not know them: the composition connects them here.

What is not connected is not given: without `Reading` nobody opens content, without documents a dossier has none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from kasbah.common.errors import Forbidden

Facts = dict[str, Any]
Documents = Callable[[UUID | None, Sequence[Facts]], Iterable[tuple[str, bytes]]]


class Reading(Protocol):
    """Who may read content, and on record. `actor` is an identity.services.Actor."""

    def check(self, actor: Any, tenant_id: UUID) -> None:
        """Raises NotFound, Forbidden."""

    def told(
        self, actor: Any, tenant_id: UUID, requests: Sequence[str], parts: Sequence[str], *, altered: bool = False
    ) -> None:
        """Put on record, whatever becomes of the export, that the content of these requests is read."""


@dataclass
class Companions:
    """`keys_of` gives the ids of a person's API keys in a tenant; `documents` the files of a dossier of these events,
    each by its path."""

    reading: Reading | None = None
    keys_of: Callable[[UUID, UUID], Iterable[str]] = lambda _tenant, _person: ()
    documents: list[Documents] = field(default_factory=list)

    def read_by(self) -> Reading:
        """Raises Forbidden."""
        if self.reading is None:
            raise Forbidden("Content cannot be opened here: nothing says who may read it.")
        return self.reading


companions = Companions()
