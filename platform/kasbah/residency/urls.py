"""Management paths of this app, under /api/."""

from __future__ import annotations

from kasbah.common.api import router
from kasbah.residency.api.policies import PolicyViewSet
from kasbah.residency.api.sites import SiteViewSet

urlpatterns = router([("sites", SiteViewSet, "site"), ("tenants/<slug:tenant>/policies", PolicyViewSet, "policy")]).urls
