"""Every URL of the control plane that Django serves. The gateway's routes are in kasbah.gateway.app."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerSplitView

from kasbah.config.pages import RootView
from kasbah.config.schema import SchemaView

APPS = ("audit", "identity", "registry", "residency", "metering", "serving")

urlpatterns: list[URLPattern | URLResolver] = [
    path("", RootView.as_view(), name="root"),
    path("api/schema/", SchemaView.as_view(), name="schema"),
    path(
        "api/docs/",
        # Split: its script is a file of its own, which the page's Content-Security-Policy lets in.
        SpectacularSwaggerSplitView.as_view(
            authentication_classes=[], url_name="schema", template_name="composition/api_docs.html"
        ),
        name="docs",
    ),
    path("api/", RedirectView.as_view(pattern_name="docs", http_method_names=["get", "head"]), name="api"),
    *(path("api/", include(f"kasbah.{app}.urls")) for app in APPS),
]

handler400 = "kasbah.common.api_errors.bad_request"
handler403 = "kasbah.common.api_errors.permission_denied"
handler404 = "kasbah.config.pages.not_found"
handler500 = "kasbah.common.api_errors.server_error"
