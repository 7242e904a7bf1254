"""Management paths of this app, under /api/."""

from __future__ import annotations

from django.urls import path

from kasbah.common.api import router
from kasbah.serving.api.deployments import DeploymentViewSet, GrantViewSet
from kasbah.serving.api.impact import SiteImpactViewSet, WorkerImpactViewSet
from kasbah.serving.api.jobs import JobViewSet, ReceiptView
from kasbah.serving.api.matrix import MatrixView, PlatformMatrixViewSet
from kasbah.serving.api.workers import EnrolmentTokenViewSet, WorkerViewSet

urlpatterns = [
    path("receipts/<str:request_id>/", ReceiptView.as_view(), name="receipt"),
    path("tenants/<slug:tenant>/matrix/", MatrixView.as_view(), name="tenant-matrix"),
    path("matrix/", PlatformMatrixViewSet.as_view({"get": "list"}), name="matrix"),
    path("sites/<uuid:pk>/impact/", SiteImpactViewSet.as_view({"get": "impact"}), name="site-impact"),
    path("workers/<uuid:pk>/impact/", WorkerImpactViewSet.as_view({"get": "impact"}), name="worker-impact"),
    *router(
        [
            ("deployments", DeploymentViewSet, "deployment"),
            ("workers", WorkerViewSet, "worker"),
            ("enrolment-tokens", EnrolmentTokenViewSet, "enrolment-token"),
            ("tenants/<slug:tenant>/grants", GrantViewSet, "grant"),
            ("tenants/<slug:tenant>/jobs", JobViewSet, "job"),
        ]
    ).urls,
]
