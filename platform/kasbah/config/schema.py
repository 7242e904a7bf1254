"""The OpenAPI document, made once a process: making it costs a tenth of a second, and anybody may ask for it."""

from __future__ import annotations

from functools import cache

from django.http import HttpRequest, HttpResponse
from django.utils import translation
from django.views import View
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiYamlRenderer

RENDERERS = {"json": (OpenApiJsonRenderer, "application/json"), "yaml": (OpenApiYamlRenderer, "application/yaml")}


@cache
def document(form: str) -> bytes:
    """The document in `json` or `yaml`."""
    renderer, _ = RENDERERS[form]
    with translation.override("en"):
        schema = SchemaGenerator().get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
        rendered: str | bytes = renderer().render(schema, renderer_context={})
    return rendered.encode() if isinstance(rendered, str) else rendered


class SchemaView(View):
    """`/api/schema/`, in JSON, or in YAML with `?format=yaml`."""

    http_method_names = ["get", "head"]

    def get(self, request: HttpRequest) -> HttpResponse:
        """The document."""
        form = "yaml" if request.GET.get("format") == "yaml" else "json"
        return HttpResponse(document(form), content_type=RENDERERS[form][1])
