"""Django REST framework's pages for people, without what its Content-Security-Policy would refuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.renderers import BrowsableAPIRenderer


class StrictBrowsableAPIRenderer(BrowsableAPIRenderer):
    """Leaves out the inline style of code samples, of which this API has none."""

    def get_context(
        self, data: Any, accepted_media_type: str | None, renderer_context: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The template's context."""
        return {**super().get_context(data, accepted_media_type, renderer_context), "code_style": ""}
