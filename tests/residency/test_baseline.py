"""The platform's baseline: it bounds every tenant, has the same life, and is loosened by two people alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from kasbah.identity.services import Actor
from kasbah.residency import services
from kasbah.residency.models import BaselinePolicy, PolicyState
from kasbah.residency.services import PolicyInvalid
from tests import factories
from tests.factories import SYSTEM, fresh

from .documents import allow, deny, document
from .test_policy_life import NARROW, WIDE, House, past, refused

pytestmark = pytest.mark.django_db
EVERYTHING = document(
    allow("everything", data_classes=["public", "internal", "confidential", "secret"], tags=["*"]),
)
NOT_SECRET = document(*EVERYTHING["rules"], deny("no-secrets", data_classes=["secret"]))


@pytest.fixture
def roots(db: None) -> tuple[Actor, Actor]:
    """Two platform administrators."""
    return fresh(factories.user(is_platform_admin=True)), fresh(factories.user(is_platform_admin=True))


def asked(who: Actor, given: Any, at: Any = None) -> BaselinePolicy:
    return services.request_activation(who, services.create_policy(who, None, given), at)  # type: ignore[no-any-return]


def events() -> list[tuple[str, Any]]:
    found = factories.events_of(None)
    return [(str(e["type"]), e["details"]) for e in found if str(e["type"]).startswith("baseline.")]


def test_it_bounds_every_tenant_and_says_that_it_does(roots: tuple[Actor, Actor]) -> None:
    house = House()
    services.create_site(SYSTEM, "paris", "Paris", "FR", "redis://127.0.0.1:1/0")
    factories.active_policy(house.tenant, EVERYTHING)

    def explained(data_class: str) -> tuple[bool, str, int | None]:
        found = services.explain(house.tenant, data_class=data_class, model="m")
        return found.allowed, found.rule, found.baseline_version

    assert explained("secret") == (True, "everything", None)
    first = asked(roots[0], NOT_SECRET)
    assert (first.state, first.needs_approval) == (PolicyState.ACTIVE, False)  # it can only tighten
    assert explained("secret") == (False, "baseline/no-secrets", 1)
    assert explained("internal") == (True, "everything", 1)
    widened = asked(roots[0], EVERYTHING)
    assert widened.state == PolicyState.REQUESTED
    refused("second_person", lambda: services.approve_policy(roots[0], widened))
    services.approve_policy(roots[1], widened)
    assert explained("secret") == (True, "everything", 2)
    assert [kind for kind, _ in events()] == [
        *["baseline.created", "baseline.requested", "baseline.activated"],
        *["baseline.created", "baseline.requested", "baseline.approved", "baseline.activated"],
    ]
    assert {event["resource"]["type"] for event in factories.events_of(None) if "baseline" in str(event["type"])} == {  # type: ignore[index]
        "baseline"
    }


def test_what_a_tenant_may_do_beneath_it_is_settled_before_it_is_loosened(roots: tuple[Actor, Actor]) -> None:
    """A tenant's loosening takes two people also where the baseline still denies what it opens."""
    house = House()
    factories.active_policy(None, document())
    assert house.asked(WIDE).state == PolicyState.REQUESTED
    assert asked(roots[0], WIDE).state == PolicyState.REQUESTED  # nor is the baseline opened by one


def test_its_life_is_that_of_a_tenants_policy(roots: tuple[Actor, Actor]) -> None:
    first = asked(roots[0], WIDE)
    planned = asked(roots[0], NARROW, at=timezone.now() + timedelta(days=1))
    BaselinePolicy.objects.filter(pk=planned.pk).update(activate_at=past(seconds=1))
    assert services.activate_due() == {"activated": 1}
    back = services.roll_back(roots[0], first)
    services.reject_policy(roots[1], back, "No.")
    late = services.roll_back(roots[0], first)
    BaselinePolicy.objects.filter(pk=late.pk).update(expires_at=past(seconds=1))
    assert services.activate_due() == {"expired": 1}
    services.withdraw_policy(roots[0], services.roll_back(roots[0], first))
    states = BaselinePolicy.objects.order_by("version").values_list("state", flat=True)
    assert list(states) == ["superseded", "active", "rejected", "expired", "withdrawn"]
    assert {kind for kind, _ in events()} == {
        f"baseline.{verb}"
        for verb in ("created", "requested", "activated", "rejected", "expired", "rolled_back", "withdrawn")
    }


def test_it_names_no_project_and_no_site_that_is_not_there(roots: tuple[Actor, Actor]) -> None:
    project = str(factories.household().project.id)
    with pytest.raises(PolicyInvalid) as caught:
        services.create_policy(roots[0], None, document(allow(projects=[project]), deny(sites=["nowhere"])))
    assert [problem.path for problem in caught.value.problems] == ["/rules/0/projects"]
    with pytest.raises(PolicyInvalid, match="there is no site nowhere"):
        asked(roots[0], document(deny(sites=["nowhere"])))


def test_only_platform_administrators_manage_it() -> None:
    house = House()
    refused("permission_denied", lambda: services.create_policy(house.ada, None, WIDE))
    policy = services.create_policy(SYSTEM, None, WIDE)
    for verb in (services.request_activation, services.withdraw_policy, services.approve_policy, services.roll_back):
        refused("permission_denied", lambda verb=verb: verb(house.ada, policy))
