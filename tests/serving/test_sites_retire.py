"""A site that is given up, or is dead for good, is retired: nothing reaches for it any more, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest

from kasbah.common import rls
from kasbah.common.errors import Conflict, Invalid
from kasbah.residency.models import Site, SiteHealth, SiteKey, SiteLife, SiteState
from kasbah.residency.services import drain_site, resume_site, retire_site, update_site
from kasbah.residency.services.loaders import load_sites
from kasbah.serving import tasks
from kasbah.serving.housekeeping.sites import all_sites, backoff
from kasbah.serving.housekeeping.sweep import sweep
from kasbah.serving.models import Worker
from kasbah.serving.services import create_deployment, create_enrolment_token, revoke_worker, update_deployment
from tests import factories
from tests.serving.stand_in import StandIn
from tests.serving.test_housekeeping import again, due, events, submit
from tests.serving.world import World, stand_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(60)]


def empty(world: World, index: int = 0) -> Site:
    """Drain a site and take away what needs it."""
    site = world.sites[index]
    drain_site(factories.SYSTEM, site)
    update_deployment(factories.SYSTEM, world.deployment, sites=[world.sites[1 - index]])
    with rls.platform_scope():
        workers = list(Worker.objects.filter(site=site))
    for worker in workers:
        revoke_worker(factories.SYSTEM, worker)
    return site


def refusal(site: Site) -> Conflict:
    with pytest.raises(Conflict) as raised:
        retire_site(factories.SYSTEM, site)
    return raised.value


def test_site_in_use_is_not_retired_and_each_reason_is_named(world: World, standing: StandIn) -> None:
    site = world.sites[0]
    assert refusal(site).code == "site_not_drained"
    drain_site(factories.SYSTEM, site)
    submit(world)
    found = refusal(site)
    assert found.code == "site_in_use"
    with rls.platform_scope():
        name = Worker.objects.get(pk=standing.worker).name
    for part in (world.deployment.name, f"revoke these workers: {name}", "1 jobs there have not ended"):
        assert part in found.message
    site.refresh_from_db()
    assert site.state == SiteState.DRAINED


async def test_retired_site_is_history_alone(world: World, standing: StandIn, database: Any) -> None:
    from tests.serving.world import apart

    site = await apart(empty, world)
    await apart(retire_site, factories.SYSTEM, site)
    async with database.transaction(None) as connection:
        assert [each.slug for each in await load_sites(connection)] == ["tokyo"]
    assert [each.slug for each in await apart(all_sites)] == ["tokyo"]

    def rest() -> None:
        with rls.platform_scope():
            assert not SiteKey.objects.filter(site=site).exclude(private_key_sealed=b"").exists()
        (event,) = events("site.retired")
        assert event["site"] == str(site.id)
        assert refusal(site).code == "site_retired"
        for step in (
            lambda: resume_site(factories.SYSTEM, site),
            lambda: drain_site(factories.SYSTEM, site),
            lambda: update_site(factories.SYSTEM, site, name="Another"),
            lambda: create_enrolment_token(factories.SYSTEM, site),
        ):
            with pytest.raises(Conflict, match="retired"):
                step()
        with pytest.raises(Invalid, match="Retired"):
            create_deployment(factories.SYSTEM, "another", world.version, [site])
        tasks.collect_reports()

    await apart(rest)


def test_dead_site_is_retired_and_its_jobs_end(world: World, standing: StandIn) -> None:
    job = submit(world)
    world.stores[0].kill()
    try:
        tasks.collect_reports()
        with rls.platform_scope():
            assert SiteHealth.objects.get(site=world.sites[0]).life == SiteLife.UNREACHABLE
        site = empty(world)
        assert sweep()["waiting for a site"] == 1  # as long as it may come back
        retire_site(factories.SYSTEM, site)
        due()
        assert sweep()["settled"] == 1
        assert (again(job).state, again(job).error_code) == ("failed", "site_gone")
    finally:
        world.stores[0].start()
        backoff.answered(world.sites[0].id)


def test_other_site_goes_on(world: World, standing: StandIn) -> None:
    other = stand_in(world, 1)
    retire_site(factories.SYSTEM, empty(world))
    tasks.collect_reports()
    submit(world, sites=(1,))
    assert other.take() is not None
    other.close()
