"""Retention: ceilings, floors, lowered levels; dry runs that touch nothing; and who reads content back."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection
from rest_framework.test import APIClient

from kasbah.audit.content import erasure, records
from kasbah.audit.models import Content
from kasbah.common import rls
from kasbah.common.errors import Forbidden
from kasbah.config.celery import app
from kasbah.identity.models import DataClass, Role
from kasbah.identity.services import actor_of_user
from kasbah.residency import tasks
from kasbah.residency.services import disclosure, holds, retention
from kasbah.residency.services.holds import Reach
from tests import factories

from .kept import client, left, policy, run, store

pytestmark = pytest.mark.django_db


@pytest.fixture
def home() -> factories.Household:
    return factories.household()


def erased(home: factories.Household) -> list[dict[str, Any]]:
    return [event for event in factories.events_of(home.tenant.id) if event["type"] == "content.erased"]


class TestErasing:
    """The active policy decides, the sooner ceiling counts, the floor goes first."""

    @pytest.mark.parametrize(
        ("level", "days_kept", "stored", "days", "expected"),
        [
            ("sealed", (0, 30), 30, 31, "nothing"),
            ("sealed", (0, 30), 30, 29, "all"),
            ("sealed", (0, 30), 90, 31, "nothing"),  # the policy was tightened
            ("sealed", (0, 90), 30, 31, "nothing"),  # it was loosened: what was promised stays
            ("sealed", (60, 90), 30, 31, "all"),  # the floor of now goes before the ceiling of then
            ("sealed", (60, 90), 30, 61, "nothing"),
            ("none", (0, 30), 30, 0.1, "nothing"),
            ("none", (10, 30), 30, 9, "all"),
            ("none", (10, 30), 30, 11, "nothing"),
            ("commitment", (0, 30), 30, 1, "opening"),
            ("commitment", (10, 30), 30, 9, "all"),
            ("commitment", (0, 30), 30, 31, "nothing"),
        ],
    )
    def test_what_is_due(  # noqa: PLR0917 - a table
        self,
        home: factories.Household,
        level: str,
        days_kept: tuple[int, int],
        stored: int,
        days: float,
        expected: str,
    ) -> None:
        policy(home, level, floor=days_kept[0], ceiling=days_kept[1])
        row = store(home, days=days, ceiling=stored)
        assert run(home) == (expected != "all")
        assert left(row) == expected
        assert run(home) == 0

    def test_openings_without_a_ceiling_stay(self, home: factories.Household) -> None:
        policy(home, "commitment", ceiling=0)
        row = store(home, days=4000, level="commitment", ceiling=0)
        with rls.tenant_scope(home.tenant.id):
            row.refresh_from_db()
        assert run(home) == 0
        assert row.opening is not None

    def test_what_is_erased_cannot_be_read_and_its_commitment_stays(self, home: factories.Household) -> None:
        policy(home)
        row = store(home, days=31)
        reader = auditor(home)
        before = disclosure.read_content(reader, home.tenant, row.request_id).parts[0]
        assert before.content == '{"prompt":"x"}'
        run(home)
        after = disclosure.read_content(reader, home.tenant, row.request_id).parts[0]
        assert (after.content, after.opening, after.erased_reason) == (None, None, "ceiling")
        assert after.erased_at is not None
        assert after.commitment == before.commitment
        with rls.tenant_scope(home.tenant.id), connection.cursor() as cursor:
            cursor.execute("SELECT opening, record_key, ciphertext FROM audit_content WHERE id = %s", [row.id])
            assert cursor.fetchone() == (None, None, None)

    def test_each_batch_leaves_an_event_that_its_rows_name(
        self, home: factories.Household, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(erasure, "BATCH", 2)
        policy(home)
        rows = [store(home, days=40 + n) for n in range(5)]
        keeps = store(home, days=1)
        assert run(home) == 5
        events = erased(home)
        assert [event["details"]["records"] for event in events] == [2, 2, 1]
        assert left(keeps) == "all"
        for event in events:
            with rls.tenant_scope(home.tenant.id):
                named = Content.objects.filter(erased_event=event["id"]).values_list("id", flat=True)
                assert set(named) <= {row.id for row in rows}
                assert erasure.digest_of(list(named)) == event["resource"]["digest"]
            assert event["reason"] == "ceiling"
            assert event["details"]["data_class"] == "internal"
            assert event["details"]["ceiling_days"] == 30
            assert event["details"]["policy"].endswith("@1")

    def test_a_run_that_broke_off_goes_on(self, home: factories.Household, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(erasure, "BATCH", 2)
        policy(home)
        for n in range(3):
            store(home, days=40 + n)
        real, calls = erasure.erase_batch, [0]

        def breaks(*arguments: Any) -> int:
            calls[0] += 1
            if calls[0] == 3:  # after an empty one for the class `public`
                raise DatabaseError("gone")
            return real(*arguments)

        monkeypatch.setattr(erasure, "erase_batch", breaks)
        assert run(home) == 0  # it is logged, and other tenants' turn comes
        assert len(erased(home)) == 1
        assert run(home) == 1

    def test_fault_of_one_tenant_stops_no_other(
        self, home: factories.Household, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy(home)
        store(home, days=40)
        broken = factories.household()
        real = retention._erase_of

        def breaks(by: Any, tenant: Any) -> int:
            if tenant.id == broken.tenant.id:
                raise ValueError("a defect")
            return real(by, tenant)

        monkeypatch.setattr(retention, "_erase_of", breaks)
        for tenants in ([broken.tenant, home.tenant], [broken.tenant]):
            retention.erase_due(factories.SYSTEM.ref, tenants)
        assert len(erased(home)) == 1
        assert sum(f"The retention of tenant {broken.tenant.slug} failed" in each for each in caplog.messages) == 1

    def test_the_hourly_task_and_only_one_at_a_time(
        self, home: factories.Household, superuser: psycopg.Connection
    ) -> None:
        assert app.conf.beat_schedule["retain-content"] == {
            "task": tasks.retain.name, "schedule": 3600.0, "options": {"expires": 3600}
        }  # fmt: skip
        policy(home)
        row = store(home, days=40)
        lock = "SELECT pg_advisory_{}(hashtextextended('kasbah:retention', 0))"
        superuser.execute(lock.format("lock"))
        tasks.retain()
        assert left(row) == "all"
        superuser.execute(lock.format("unlock"))
        tasks.retain()
        assert left(row) == "nothing"

    def test_without_a_policy_nothing_is_erased(self, home: factories.Household) -> None:
        row = store(home, days=400)
        assert run(home) == 0
        assert left(row) == "all"
        assert [item.kept.due for item in retention.standing(home.tenant)] == [0, 0, 0, 0]

    def test_another_tenant_and_another_class_are_left_alone(self, home: factories.Household) -> None:
        policy(home)
        other = factories.household()
        foreign, secret = store(other, days=99), store(home, days=99, data_class="public")
        policy(other, ceiling=365)
        run(home)
        assert left(foreign) == "all"
        assert left(secret) == "nothing"  # the policy names nothing for `public`, so nothing of it is kept


class TestDryRun:
    """What is kept, due and held is counted; nothing is touched."""

    def test_the_counts_are_what_a_run_erases(self, home: factories.Household) -> None:
        policy(home)
        rows = [store(home, days=days) for days in (40, 35, 5)]
        held = store(home, days=50)
        holds.place_hold(factories.SYSTEM, home.tenant, Reach(request_id=held.request_id), reason="R", reference="1")
        found = {item.data_class: item.kept for item in retention.standing(home.tenant)}
        kept = found["internal"]
        assert (kept.records, kept.sealed, kept.due, kept.held) == (4, 4, 2, 1)
        assert kept.oldest == held.created_at
        assert found["secret"] == erasure.Kept(0, 0, None, 0, 0)
        assert [left(row) for row in rows] == ["all", "all", "all"]
        assert run(home) == 2

    def test_the_command_and_the_api_tell_the_same(self, home: factories.Household) -> None:
        policy(home)
        store(home, days=40)
        out = StringIO()
        call_command("retention", "--dry-run", "--tenant", home.tenant.slug, "--json", stdout=out)
        lines = [{k: v for k, v in line.items() if k != "tenant"} for line in json.loads(out.getvalue())]
        shown = client(home.admin).get(f"/api/tenants/{home.tenant.slug}/retention/").json()["classes"]
        assert shown == lines
        assert [line["data_class"] for line in lines] == DataClass.values
        assert next(line for line in lines if line["data_class"] == "internal")["due"] == 1
        assert erased(home) == []

    def test_an_empty_tenant_has_every_class_with_nothing(self, home: factories.Household) -> None:
        shown = client(home.admin).get(f"/api/tenants/{home.tenant.slug}/retention/").json()["classes"]
        assert [(line["records"], line["oldest"], line["level"]) for line in shown] == [(0, None, None)] * 4

    def test_the_command_erases(self, home: factories.Household) -> None:
        policy(home)
        row = store(home, days=40)
        out = StringIO()
        call_command("retention", "--tenant", home.tenant.slug, stdout=out)
        assert out.getvalue().split()[:2] == ["erased", "1"]
        assert left(row) == "nothing"
        assert erased(home)[0]["actor"]["authentication"] == "command"


class TestReading:
    """Content is shown to the tenant's auditor, and each time it is on record."""

    def test_an_auditor_reads_and_it_is_recorded(self, home: factories.Household) -> None:
        row = store(home, days=1)
        person = factories.user()
        factories.membership(home.tenant, person, Role.AUDITOR)
        answer = client(person).get(f"/api/tenants/{home.tenant.slug}/content/{row.request_id}/")
        assert answer.status_code == 200, answer.content
        (part,) = answer.json()["parts"]
        assert part["content"] == '{"prompt":"x"}'
        assert records.commit(bytes.fromhex(part["opening"]), part["content"].encode()) == part["commitment"]
        event: dict[str, Any] = factories.events_of(home.tenant.id)[-1]
        assert (event["type"], event["resource"]["id"]) == ("content.read", row.request_id)
        assert event["actor"]["id"] == str(person.id)
        assert event["details"]["shown"] == ["prompt"]

    def test_nobody_else_reads(self, home: factories.Household) -> None:
        row = store(home, days=1)
        place = f"/api/tenants/{home.tenant.slug}/content/{row.request_id}/"
        people = {role: factories.user() for role in (Role.DEVELOPER, Role.OPERATOR, Role.TENANT_ADMIN)}
        for role, person in people.items():
            factories.membership(home.tenant, person, role)
            assert client(person).get(place).status_code == 403, role
        assert client(factories.user(is_platform_admin=True)).get(place).status_code == 403
        _, text = factories.api_key(home.project, scopes=("management",), role=Role.AUDITOR)
        by_key = APIClient()
        by_key.credentials(HTTP_AUTHORIZATION=f"Bearer {text}")
        assert by_key.get(place).status_code == 403
        with pytest.raises(Forbidden):
            disclosure.read_content(factories.SYSTEM, home.tenant, row.request_id)

    def test_a_foreign_request_is_like_one_that_does_not_exist(self, home: factories.Household) -> None:
        other = factories.household()
        row = store(other, days=1)
        person = factories.user()
        factories.membership(home.tenant, person, Role.AUDITOR)
        base = f"/api/tenants/{home.tenant.slug}/content"
        foreign, nothing = client(person).get(f"{base}/{row.request_id}/"), client(person).get(f"{base}/req_none/")
        assert foreign.status_code == nothing.status_code == 404
        assert foreign.json()["error"]["message"] == nothing.json()["error"]["message"]
        assert client(person).get(f"/api/tenants/{other.tenant.slug}/content/{row.request_id}/").status_code == 404


def auditor(home: factories.Household) -> Any:
    person = factories.user()
    factories.membership(home.tenant, person, Role.AUDITOR)
    return actor_of_user(person)
