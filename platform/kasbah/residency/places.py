"""Where something may be processed, as far as a decision is concerned."""

from __future__ import annotations

from uuid import UUID

import msgspec


class SiteFact(msgspec.Struct, frozen=True):
    """What the decision knows of a site; `zone` is "" where it lies in none."""

    id: UUID
    slug: str
    jurisdiction: str
    zone: str = ""
