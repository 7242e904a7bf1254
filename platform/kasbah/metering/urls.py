"""Management paths of this app, under /api/."""

from __future__ import annotations

from kasbah.common.api import router
from kasbah.metering.api import LimitViewSet, UsageViewSet

urlpatterns = router(
    [
        ("tenants/<slug:tenant>/limits", LimitViewSet, "limit"),
        ("tenants/<slug:tenant>/usage", UsageViewSet, "usage"),
    ]
).urls
