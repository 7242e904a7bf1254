"""Management paths of this app, under /api/."""

from __future__ import annotations

from django.urls import path

from kasbah.common.api import router
from kasbah.identity.api import schemes  # noqa: F401  (registers them)
from kasbah.identity.api.keys import ApiKeyViewSet
from kasbah.identity.api.session import MeView, SessionView
from kasbah.identity.api.tenants import MemberViewSet, ProjectViewSet, TenantViewSet, UserViewSet

urlpatterns = [
    path("me/", MeView.as_view(), name="me"),
    path("session/", SessionView.as_view(), name="session"),
    *router(
        [
            ("tenants", TenantViewSet, "tenant"),
            ("tenants/<slug:tenant>/projects", ProjectViewSet, "project"),
            ("tenants/<slug:tenant>/members", MemberViewSet, "member"),
            ("tenants/<slug:tenant>/api-keys", ApiKeyViewSet, "api-key"),
            ("users", UserViewSet, "user"),
        ]
    ).urls,
]
