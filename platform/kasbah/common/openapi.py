"""The OpenAPI 3.1 document: what drf-spectacular cannot see by itself is added here, once for every endpoint."""

from __future__ import annotations

from typing import Any

from drf_spectacular.openapi import AutoSchema

from kasbah.common.access import PUBLIC
from kasbah.common.api import ManagementMixin, ManagementViewSet, PageQuery

ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What is wrong and the way out, for people."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "Path of the field that is wrong."},
                "code": {"type": "string", "description": "Stable, for programs."},
            },
        }
    },
}
EVERYWHERE = {
    "400": "A parameter or the body is wrong; `param` names the field.",
    "401": "Nobody is logged in, or the API key is not valid.",
    "403": "You are known, but may not do this.",
    "406": "The answer is JSON; you accept something else.",
    "429": "Too many attempts; `Retry-After` says when.",
    "503": "A part that is needed is away; nothing was done.",
}
WRITING = {
    "409": "The state of the object does not allow it.",
    "413": "The body is too large.",
    "415": "The body is not JSON.",
}
NOT_FOUND = {"404": "It does not exist, or not for you; the two are not told apart."}


class ManagementSchema(AutoSchema):
    """Adds the query parameters of lists, one tag an app noun, and the permission of each operation."""

    def get_override_parameters(self) -> list[Any]:
        """The page's and the filters' parameters of a list."""
        if isinstance(self.view, ManagementViewSet) and getattr(self.view, "action", "") == "list":
            return [kind for kind in (PageQuery, self.view.filters) if kind is not None]
        return []

    def get_tags(self) -> list[str]:
        """The first noun that is not the tenant."""
        nouns = [part for part in self.path.split("/") if part and part != "api" and not part.startswith("{")]
        return [nouns[1] if nouns[0] == "tenants" and len(nouns) > 1 else nouns[0]]

    def _get_serializer_name(self, serializer: Any, direction: Any, bypass_extensions: bool = False) -> str:
        # `TenantShown` is what Tenant is called outside
        return str(super()._get_serializer_name(serializer, direction, bypass_extensions)).removesuffix("Shown")

    def get_description(self) -> str:  # type: ignore[override]  # drf-spectacular changed what it overrides
        """The handler's docstring and the permission that it needs."""
        text = super().get_description()
        if not isinstance(self.view, ManagementMixin):
            return text
        action = getattr(self.view, "action", None) or self.method.lower()
        needed = self.view.access.get(action, "")
        return text if needed == PUBLIC else f"{text}\n\nPermission: `{needed}`."


def document_errors(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Postprocessing hook: every operation lists the errors that it can answer, all with one body."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    result["components"].setdefault("schemas", {})["Error"] = ERROR
    result["components"]["responses"] = {
        f"Error{status}": {"description": text, "content": content}
        for status, text in (EVERYWHERE | NOT_FOUND | WRITING).items()
    }
    for path, operations in result["paths"].items():
        for method, operation in operations.items():
            named = NOT_FOUND if "{" in path or method == "post" else {}
            for status in EVERYWHERE | named | (WRITING if method != "get" else {}):
                operation["responses"].setdefault(status, {"$ref": f"#/components/responses/Error{status}"})
    return result
