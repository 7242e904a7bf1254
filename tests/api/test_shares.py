"""Management requests that take long: a tenant has its share of them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest

from kasbah.common import api
from kasbah.common.shares import SharedPool
from kasbah.serving.api.matrix import MatrixView
from tests import factories
from tests.api import world

pytestmark = pytest.mark.django_db

LONG = {
    "ExportView": {"get"},
    "MatrixView": {"get"},
    "PlatformMatrixViewSet": {"list"},
    "SimulationViewSet": {"simulate"},
    "SiteImpactViewSet": {"impact"},
    "WorkerImpactViewSet": {"impact"},
    "UsageViewSet": {"summary"},
}


def statuses(root: Any, *homes: Any) -> list[int]:
    return [root.get(f"/api/tenants/{home.tenant.slug}/matrix/").status_code for home in homes]


def test_a_tenant_that_has_its_share_leaves_room_for_others(
    root: Any, home: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, other = SharedPool("long requests", 2), factories.household()
    monkeypatch.setattr(api, "LONG_RUNS", pool)
    with ExitStack() as held:
        held.enter_context(pool.hold(home.tenant.id))
        assert statuses(root, home, other) == [429, 200]
        refused = root.get(f"/api/tenants/{home.tenant.slug}/matrix/")
        assert refused.json()["error"]["code"] == "share_used"
        assert refused.headers["retry-after"] == "1"
        monkeypatch.setattr(MatrixView, "long", frozenset())
        assert statuses(root, home) == [200], "control: a view that takes no place"
    assert (pool._free, statuses(root, home)) == (2, [200])


def test_a_request_that_fails_gives_its_place_back(root: Any, home: Any) -> None:
    before = api.LONG_RUNS._free
    assert root.get(f"/api/tenants/{home.tenant.slug}/matrix/?models=x").status_code == 400
    assert api.LONG_RUNS._free == before


def test_what_takes_long_is_known() -> None:
    views = {getattr(endpoint.view, "cls", None) for endpoint in world.endpoints()}
    found = {view.__name__: set(view.long) for view in views if getattr(view, "long", None)}
    assert found.items() >= LONG.items()
    versions = {name for name in found if name not in LONG}
    assert versions
    assert all(found[name] >= {"create", "validate", "difference"} for name in versions)
