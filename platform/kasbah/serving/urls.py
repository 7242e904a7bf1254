"""Management paths of this app, under /api/."""

from __future__ import annotations

from django.urls import path

from kasbah.common.api import router
from kasbah.serving.api.deployments import DeploymentViewSet, GrantViewSet
from kasbah.serving.api.impact import SiteImpactViewSet, WorkerImpactViewSet
from kasbah.serving.api.jobs import JobViewSet, ReceiptView
from kasbah.serving.api.keys import SigningKeysView, SigningKeyViewSet, SigningRotationView, SiteKeyViewSet
from kasbah.serving.api.matrix import MatrixView, PlatformMatrixViewSet
from kasbah.serving.api.workers import EnrolmentTokenViewSet, WorkerViewSet

urlpatterns = [
    path("signing-keys/", SigningKeysView.as_view(), name="signing-keys"),
    path("signing-keys/rotation/", SigningRotationView.as_view(), name="signing-key-rotation"),
    path("signing-keys/<uuid:pk>/revoke/", SigningKeyViewSet.as_view({"post": "revoke"}), name="signing-key-revoke"),
    path("sites/<str:pk>/keys/", SiteKeyViewSet.as_view({"get": "rotation", "post": "begin"}), name="site-keys"),
    path("sites/<str:pk>/keys/switch/", SiteKeyViewSet.as_view({"post": "switch"}), name="site-keys-switch"),
    path("receipts/<str:request_id>/", ReceiptView.as_view(), name="receipt"),
    path("tenants/<slug:tenant>/matrix/", MatrixView.as_view(), name="tenant-matrix"),
    path("matrix/", PlatformMatrixViewSet.as_view({"get": "list"}), name="matrix"),
    path("sites/<str:pk>/impact/", SiteImpactViewSet.as_view({"get": "impact"}), name="site-impact"),
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
