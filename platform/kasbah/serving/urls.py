"""Management paths of this app, under /api/."""

from __future__ import annotations

from django.urls import path

from kasbah.common.api import router
from kasbah.serving.api.deployments import DeploymentViewSet, GrantViewSet
from kasbah.serving.api.jobs import JobViewSet, ReceiptView
from kasbah.serving.api.workers import EnrolmentTokenViewSet, WorkerViewSet

urlpatterns = [
    path("receipts/<str:request_id>/", ReceiptView.as_view(), name="receipt"),
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
