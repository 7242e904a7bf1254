"""Setting limits, loading them, and what the headers write."""

from __future__ import annotations

from uuid import UUID

import pytest
from asgiref.sync import sync_to_async

from kasbah.common import rls
from kasbah.common.database import Database
from kasbah.common.errors import Forbidden, Invalid, NotFound
from kasbah.identity.models import Role
from kasbah.identity.services import actor_of_user
from kasbah.metering import services
from kasbah.metering.models import Limit
from kasbah.metering.services import limits, periods
from tests import factories
from tests.factories import SYSTEM


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0ms"),
        (17, "17ms"),
        (1000, "1s"),
        (8640, "8.64s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (3_605_000, "1h0m5s"),
    ],
)
def test_durations_are_written_as_openai_does(milliseconds: int, text: str) -> None:
    assert periods.duration(milliseconds) == text


def test_periods_are_utc_and_meet_without_a_gap() -> None:
    last = 1_796_083_199.9  # 2026-11-30T23:59:59.9Z
    assert periods.label("month", last) == "2026-11"
    assert periods.label("day", last) == "2026-11-30"
    for period in ("day", "month"):
        assert periods.end(period, last) == periods.start(period, last + 0.1)
        assert periods.label(period, last + 0.1) in {"2026-12", "2026-12-01"}
    assert periods.seconds_left(last) == 1


@pytest.mark.django_db
def test_one_limit_a_subject_and_each_change_on_record() -> None:
    home = factories.household()
    first = services.set_limit(SYSTEM, home.tenant, scope="api_key", subject_id=home.key.id, requests_per_minute=5)
    second = services.set_limit(SYSTEM, home.tenant, scope="api_key", subject_id=home.key.id, tokens_per_period=9)
    third = services.set_limit(SYSTEM, home.tenant, scope="api_key", subject_id=home.key.id, tokens_per_period=8)
    # A quota that begins has a new counter; one that goes on keeps it.
    assert first.id != second.id == third.id
    with rls.tenant_scope(home.tenant.id):
        assert Limit.objects.get().tokens_per_period == 8
        assert Limit.objects.get().requests_per_minute is None
    services.remove_limit(SYSTEM, third)
    events = factories.events_of(home.tenant.id)
    assert [event["type"] for event in events] == ["limit.set"] * 3 + ["limit.removed"]
    with rls.tenant_scope(home.tenant.id):
        assert not Limit.objects.exists()


@pytest.mark.django_db
def test_a_limit_is_refused_by_field() -> None:
    home, other = factories.household(), factories.household()

    def fails(kind: type[Exception], param: str, **fields: object) -> None:
        given = {"scope": "tenant", "subject_id": home.tenant.id, **fields}
        with pytest.raises(kind) as caught:
            services.set_limit(SYSTEM, home.tenant, **given)  # type: ignore[arg-type]
        assert caught.value.param == param  # type: ignore[attr-defined]

    fails(Invalid, "scope", scope="planet")
    fails(Invalid, "period", period="year")
    fails(Invalid, "requests_per_minute", requests_per_minute=-1)
    fails(Invalid, "tokens_per_period", tokens_per_period=2**53)
    fails(NotFound, "subject_id", subject_id=other.tenant.id)
    fails(NotFound, "subject_id", scope="project", subject_id=other.project.id)
    fails(NotFound, "subject_id", scope="api_key", subject_id=UUID(int=0))


@pytest.mark.django_db
def test_a_developer_sets_no_limit() -> None:
    home, person = factories.household(), factories.user()
    factories.membership(home.tenant, person, Role.DEVELOPER)
    with pytest.raises(Forbidden):
        services.set_limit(actor_of_user(person), home.tenant, scope="tenant", subject_id=home.tenant.id)


@pytest.mark.django_db
@pytest.mark.parametrize("change", ["set", "raise", "remove"])
def test_the_limit_above_a_tenant_is_the_platforms(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    home = factories.household()
    root, above = actor_of_user(factories.user(is_platform_admin=True)), {"scope": "tenant"}
    own = actor_of_user(home.admin)
    if change != "set":
        set_by_root = services.set_limit(
            root, home.tenant, scope="tenant", subject_id=home.tenant.id, tokens_per_minute=5
        )

    def act() -> object:
        if change == "remove":
            return services.remove_limit(own, set_by_root)
        return services.set_limit(own, home.tenant, subject_id=home.tenant.id, tokens_per_minute=10**9, **above)

    with pytest.raises(Forbidden, match="platform's administrators") as caught:
        act()
    assert caught.value.param == "scope"
    with rls.tenant_scope(home.tenant.id):
        assert [row.tokens_per_minute for row in Limit.objects.all()] == ([] if change == "set" else [5])
    # What is within the tenant stays his.
    services.remove_limit(own, services.set_limit(own, home.tenant, scope="project", subject_id=home.project.id))
    monkeypatch.setattr(limits, "_require_manage", lambda *_: None)  # the control: without it he may
    act()


@pytest.mark.django_db(transaction=True)
async def test_a_key_has_its_own_its_projects_and_its_tenants_limits(database: Database) -> None:
    home, other = await sync_to_async(factories.household)(), await sync_to_async(factories.household)()
    for of in (home, other):
        for scope, subject in (("tenant", of.tenant.id), ("project", of.project.id), ("api_key", of.key.id)):
            await sync_to_async(services.set_limit)(
                SYSTEM, of.tenant, scope=scope, subject_id=subject, requests_per_minute=7
            )
    async with database.transaction(home.tenant.id) as session:
        loaded = await services.load_limits(session, home.principal)
    assert {record.subject_id for record in loaded.records} == {home.tenant.id, home.project.id, home.key.id}
    assert {record.requests_per_minute for record in loaded.records} == {7}
    async with database.transaction(other.tenant.id) as session:
        assert (await services.load_limits(session, home.principal)).records == ()
