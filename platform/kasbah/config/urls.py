"""Every URL of the control plane that Django serves. The gateway's routes are in kasbah.gateway.app."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerView

from kasbah.config.schema import SchemaView

APPS = ("audit", "identity", "registry", "residency", "metering", "serving")

urlpatterns: list[URLPattern | URLResolver] = [
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerView.as_view(authentication_classes=[], url_name="schema"), name="docs"),
    path("api/", RedirectView.as_view(pattern_name="docs", http_method_names=["get", "head"]), name="api"),
    *(path("api/", include(f"kasbah.{app}.urls")) for app in APPS),
]

handler400 = "kasbah.common.api_errors.bad_request"
handler403 = "kasbah.common.api_errors.permission_denied"
handler404 = "kasbah.common.api_errors.page_not_found"
handler500 = "kasbah.common.api_errors.server_error"
