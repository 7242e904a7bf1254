"""Management paths of this app, under /api/."""

from __future__ import annotations

from kasbah.audit.api import EventViewSet, SystemEventViewSet
from kasbah.common.api import router

urlpatterns = router(
    [
        ("audit-events", SystemEventViewSet, "system-audit-event"),
        ("tenants/<slug:tenant>/audit-events", EventViewSet, "audit-event"),
    ]
).urls
