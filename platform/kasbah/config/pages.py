"""What is said at the root, and at paths that are not there."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse
from django.urls import Resolver404
from django.views import View

from kasbah.common import api_errors
from kasbah.common.paths import DOCS, path_not_found
from kasbah.gateway.app import PATHS

ROOT = {
    "name": "Kasbah",
    "inference_api": "/v1",
    "models": "/v1/models",
    "management_api": "/api/",
    "documentation": DOCS,
    "openapi": "/api/schema/",
    "health": "/healthz",
}


class RootView(View):
    """`/`: where everything is."""

    http_method_names = ["get", "head"]

    def get(self, request: HttpRequest) -> JsonResponse:
        """The paths of the parts."""
        return JsonResponse(ROOT)


def not_found(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Django's handler404: a path that is not there is told apart from an object that is not there."""
    if isinstance(exception, Resolver404):
        return api_errors.answer(path_not_found(request.method or "", request.path, PATHS))
    return api_errors.page_not_found(request, exception)
