"""Management paths of this app, under /api/."""

from __future__ import annotations

from django.urls import path

from kasbah.common.api import router
from kasbah.residency.api.policies import PolicyViewSet
from kasbah.residency.api.simulation import SimulationViewSet
from kasbah.residency.api.sites import SiteViewSet

urlpatterns = [
    path(
        "tenants/<slug:tenant>/policies/<uuid:pk>/simulate/",
        SimulationViewSet.as_view({"post": "simulate"}),
        name="policy-simulate",
    ),
    *router([("sites", SiteViewSet, "site"), ("tenants/<slug:tenant>/policies", PolicyViewSet, "policy")]).urls,
]
