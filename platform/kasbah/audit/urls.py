"""Management paths of this app, under /api/."""

from __future__ import annotations

from django.urls import path

from kasbah.audit.api import EventViewSet, SystemEventViewSet
from kasbah.audit.egress.api import EgressAttemptViewSet
from kasbah.audit.export.api import ExportView
from kasbah.audit.forwarding.api import ForwarderViewSet
from kasbah.audit.log import api as log
from kasbah.common.api import router

urlpatterns = [
    path("audit-log/", log.SystemHeadView.as_view(), name="system-audit-log"),
    path("audit-log/consistency/", log.SystemConsistencyView.as_view(), name="system-audit-log-consistency"),
    path("audit-events/<uuid:pk>/proof/", log.SystemInclusionView.as_view(), name="system-audit-event-proof"),
    path("tenants/<slug:tenant>/audit-log/", log.HeadView.as_view(), name="audit-log"),
    path("tenants/<slug:tenant>/audit-log/export/", ExportView.as_view(), name="audit-log-export"),
    path("tenants/<slug:tenant>/audit-log/consistency/", log.ConsistencyView.as_view(), name="audit-log-consistency"),
    path("tenants/<slug:tenant>/audit-events/<uuid:pk>/proof/", log.InclusionView.as_view(), name="audit-event-proof"),
    *router(
        [
            ("egress-attempts", EgressAttemptViewSet, "egress-attempt"),
            ("audit-forwarders", ForwarderViewSet, "audit-forwarder"),
            ("audit-events", SystemEventViewSet, "system-audit-event"),
            ("tenants/<slug:tenant>/audit-events", EventViewSet, "audit-event"),
        ]
    ).urls,
]
