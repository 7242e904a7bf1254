"""Management paths of this app, under /api/."""

from __future__ import annotations

from django.urls import path

from kasbah.common.api import router
from kasbah.residency.api.baseline import BaselineViewSet
from kasbah.residency.api.content import ContentView, HoldViewSet, RetentionView
from kasbah.residency.api.erasures import ErasureViewSet
from kasbah.residency.api.policies import PolicyViewSet
from kasbah.residency.api.pruning import PruningPolicyViewSet
from kasbah.residency.api.simulation import SimulationViewSet
from kasbah.residency.api.sites import SiteViewSet
from kasbah.residency.api.templates import TemplatesView, TemplateView

urlpatterns = [
    path("policy-templates/", TemplatesView.as_view(), name="policy-template-list"),
    path("policy-templates/<slug:name>/", TemplateView.as_view(), name="policy-template-detail"),
    path("tenants/<slug:tenant>/retention/", RetentionView.as_view(), name="retention"),
    path("tenants/<slug:tenant>/content/<str:request_id>/", ContentView.as_view(), name="content"),
    path(
        "tenants/<slug:tenant>/policies/<uuid:pk>/simulate/",
        SimulationViewSet.as_view({"post": "simulate"}),
        name="policy-simulate",
    ),
    *router(
        [
            ("sites", SiteViewSet, "site"),
            ("baseline-policies", BaselineViewSet, "baseline-policy"),
            ("tenants/<slug:tenant>/policies", PolicyViewSet, "policy"),
            ("tenants/<slug:tenant>/erasures", ErasureViewSet, "erasure"),
            ("tenants/<slug:tenant>/pruning-policies", PruningPolicyViewSet, "pruning-policy"),
            ("tenants/<slug:tenant>/legal-holds", HoldViewSet, "legal-hold"),
        ]
    ).urls,
]
