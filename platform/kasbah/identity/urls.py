"""Management paths of this app, under /api/."""

from __future__ import annotations

from django.urls import path

from kasbah.common.api import router
from kasbah.identity.api import schemes  # noqa: F401  (registers them)
from kasbah.identity.api.keys import ApiKeyViewSet
from kasbah.identity.api.session import AcceptInvitationView, MeView, MyInvitationsView, PasswordView, SessionView
from kasbah.identity.api.tenants import InvitationViewSet, MemberViewSet, ProjectViewSet, TenantViewSet, UserViewSet

urlpatterns = [
    path("me/", MeView.as_view(), name="me"),
    path("me/invitations/", MyInvitationsView.as_view(), name="my-invitations"),
    path("me/invitations/<uuid:pk>/accept/", AcceptInvitationView.as_view(), name="accept-invitation"),
    path("me/password/", PasswordView.as_view(), name="password"),
    path("session/", SessionView.as_view(), name="session"),
    *router(
        [
            ("tenants", TenantViewSet, "tenant"),
            ("tenants/<slug:tenant>/projects", ProjectViewSet, "project"),
            ("tenants/<slug:tenant>/members", MemberViewSet, "member"),
            ("tenants/<slug:tenant>/invitations", InvitationViewSet, "invitation"),
            ("tenants/<slug:tenant>/api-keys", ApiKeyViewSet, "api-key"),
            ("users", UserViewSet, "user"),
        ]
    ).urls,
]
