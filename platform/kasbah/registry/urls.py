"""Management paths of this app, under /api/."""

from __future__ import annotations

from kasbah.common.api import router
from kasbah.registry.api import ModelViewSet, VersionViewSet

urlpatterns = router([("models", ModelViewSet, "model"), ("versions", VersionViewSet, "version")]).urls
