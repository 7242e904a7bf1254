"""Retention: ceilings, floors, lowered levels and legal holds; two persons for a release; dry runs touch nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.utils import timezone
from rest_framework.test import APIClient

from kasbah.audit.content import erasure, records
from kasbah.audit.models import Content, LegalHold
from kasbah.audit.services import ActorRef
from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound
from kasbah.common.ids import uuid7
from kasbah.config.celery import app
from kasbah.identity.models import DataClass, Role, User
from kasbah.identity.services import actor_of_key, actor_of_user
from kasbah.residency import tasks
from kasbah.residency.services import disclosure, holds, retention
from kasbah.residency.services.holds import Reach
from tests import factories

from .documents import allow, document

pytestmark = pytest.mark.django_db
JOB = ActorRef("system", "retention", "internal")


@pytest.fixture
def home() -> factories.Household:
    return factories.household()


def policy(home: factories.Household, level: str = "sealed", *, floor: int = 0, ceiling: int = 30) -> None:
    """Put a policy in force for the class `internal`."""
    kept = {"retention": {"internal": {"floor_days": floor, "ceiling_days": ceiling}}} if ceiling else {}
    factories.active_policy(home.tenant, document(allow(), content={"internal": level}, **kept))


def store(home: factories.Household, *, days: float, **fields: Any) -> Content:
    """Content of the class `internal` that was stored `days` ago, with its event."""
    row: Content = factories.content(home.project, days=days, **{"data_class": "internal", **fields})
    return row


def left(row: Content) -> str:
    """What is there of a record: all, opening, or nothing."""
    with rls.tenant_scope(row.tenant_id):
        row.refresh_from_db()
    boxes = [box is not None for box in (row.opening, row.record_key, row.ciphertext)]
    return {"111": "all", "100": "opening", "000": "nothing"}["".join(str(int(there)) for there in boxes)]


def run(home: factories.Household) -> int:
    return retention.erase_due(JOB, [home.tenant])


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
        with pytest.raises(DatabaseError, match="gone"):
            run(home)
        assert len(erased(home)) == 1
        assert run(home) == 1

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


class TestHolds:
    """A hold keeps what it is about, and nothing else."""

    def test_each_condition(self, home: factories.Household) -> None:
        policy(home)
        other = factories.project(home.tenant)
        rows = {
            "other project": store(home, days=40, project_id=other.id),
            "other class": store(home, days=40, data_class="public"),
            "too old": store(home, days=60),
            "too new": store(home, days=31),
            "held": store(home, days=40),
        }
        reach = Reach(
            project_id=home.project.id,
            data_class="internal",
            since=timezone.now() - timedelta(days=50),
            until=timezone.now() - timedelta(days=35),
        )
        holds.place_hold(factories.SYSTEM, home.tenant, reach, reason="R", reference="1")
        assert run(home) == 4
        assert {name: left(row) for name, row in rows.items()} == {**dict.fromkeys(rows, "nothing"), "held": "all"}

    def test_a_hold_goes_before_everything_and_its_release_lets_go(self, home: factories.Household) -> None:
        policy(home)
        row = store(home, days=400)
        hold = holds.place_hold(factories.SYSTEM, home.tenant, Reach(), reason="R", reference="1")
        policy(home, "none", ceiling=0)
        assert run(home) == 0
        assert left(row) == "all"
        release(home, hold)
        assert run(home) == 1
        assert left(row) == "nothing"

    def test_the_database_refuses_to_erase_what_is_held(self, home: factories.Household) -> None:
        row = store(home, days=400)
        holds.place_hold(factories.SYSTEM, home.tenant, Reach(data_class="internal"), reason="R", reference="1")
        statement = erasure.ERASE.format(opening="opening = NULL,")
        with (
            pytest.raises(DatabaseError, match="under a legal hold"),
            rls.tenant_scope(home.tenant.id),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement, ["by hand", uuid7(), [row.id]])
        assert left(row) == "all"

    @pytest.mark.django_db(transaction=True)
    def test_without_the_guard_what_is_held_would_go(
        self, home: factories.Household, superuser: psycopg.Connection
    ) -> None:
        """The negative control of the one above: it is the trigger that refuses."""
        row = store(home, days=400)
        holds.place_hold(factories.SYSTEM, home.tenant, Reach(), reason="R", reference="1")
        superuser.execute("ALTER TABLE audit_content DISABLE TRIGGER audit_content_guard")
        try:
            with rls.tenant_scope(home.tenant.id), connection.cursor() as cursor:
                cursor.execute(erasure.ERASE.format(opening="opening = NULL,"), ["by hand", uuid7(), [row.id]])
        finally:
            superuser.execute("ALTER TABLE audit_content ENABLE ALWAYS TRIGGER audit_content_guard")
        assert left(row) == "nothing"

    def test_the_same_person_cannot_ask_and_release(self, home: factories.Household) -> None:
        hold = holds.place_hold(factories.SYSTEM, home.tenant, Reach(), reason="R", reference="1")
        person = command_person(home.admin)
        with pytest.raises(Conflict, match="Nobody has asked"):
            holds.release_hold(person, hold)
        holds.request_release(person, hold, "over")
        with pytest.raises(Conflict, match="asked for"):
            holds.request_release(person, hold, "again")
        with pytest.raises(Forbidden, match="second person"):
            holds.release_hold(person, hold)

    @pytest.mark.parametrize("asked", ["release_requested_by = released_by", "release_requested_by = NULL"])
    def test_sql_refuses_one_person_too(
        self, home: factories.Household, superuser: psycopg.Connection, asked: str
    ) -> None:
        one = uuid7()
        hold = uuid7()
        superuser.execute(
            "INSERT INTO audit_legalhold (id, tenant_id, data_class, request_id, reason, reference, release_reason,"
            " release_requested_by) VALUES (%s, %s, '', '', 'r', 'r', '', %s)",
            [hold, uuid7(), one],
        )
        try:
            with pytest.raises(psycopg.errors.CheckViolation):
                superuser.execute(
                    "UPDATE audit_legalhold SET released_at = now(), released_by = %s WHERE id = %s", [one, hold]
                )
            with pytest.raises(psycopg.errors.InsufficientPrivilege):  # in one step nobody else has asked
                superuser.execute(
                    "UPDATE audit_legalhold SET released_at = now(), released_by = %s, " + asked + " WHERE id = %s",  # noqa: S608  # type: ignore[arg-type]
                    [uuid7(), hold],
                )
            superuser.execute(
                "UPDATE audit_legalhold SET released_at = now(), released_by = %s WHERE id = %s", [uuid7(), hold]
            )
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                superuser.execute("UPDATE audit_legalhold SET released_at = NULL, released_by = NULL")
        finally:
            superuser.execute("ALTER TABLE audit_legalhold DISABLE TRIGGER audit_legalhold_guard")
            superuser.execute("DELETE FROM audit_legalhold WHERE id = %s", [hold])
            superuser.execute("ALTER TABLE audit_legalhold ENABLE ALWAYS TRIGGER audit_legalhold_guard")

    def test_the_constraint_alone_holds_through_the_orm(self, home: factories.Household) -> None:
        hold = holds.place_hold(factories.SYSTEM, home.tenant, Reach(), reason="R", reference="1")
        holds.request_release(command_person(home.admin), hold, "over")
        with (
            pytest.raises(IntegrityError, match="second_person"),
            rls.tenant_scope(home.tenant.id),
            transaction.atomic(),
        ):
            LegalHold.objects.filter(pk=hold.pk).update(released_by=home.admin.id, released_at=timezone.now())

    def test_keys_and_programs_release_nothing(self, home: factories.Household) -> None:
        hold = holds.place_hold(factories.SYSTEM, home.tenant, Reach(), reason="R", reference="1")
        key, _ = factories.api_key(home.project, scopes=("management",), role=Role.TENANT_ADMIN)
        for actor in (factories.SYSTEM, actor_of_key(principal(home, key))):
            with pytest.raises(Forbidden):
                holds.request_release(actor, hold, "over")

    def test_a_request_expires(self, home: factories.Household) -> None:
        hold = holds.place_hold(factories.SYSTEM, home.tenant, Reach(), reason="R", reference="1")
        holds.request_release(command_person(home.admin), hold, "over")
        with rls.tenant_scope(home.tenant.id):
            LegalHold.objects.filter(pk=hold.pk).update(release_requested_at=timezone.now() - timedelta(days=8))
        second = factories.user()
        factories.membership(home.tenant, second)
        with pytest.raises(Conflict, match="expired"):
            holds.release_hold(command_person(second), hold)
        holds.request_release(command_person(second), hold, "still over")
        assert holds.release_hold(command_person(home.admin), hold).released_by == home.admin.id

    @pytest.mark.parametrize(
        ("reach", "words", "error"),
        [
            (Reach(data_class="none"), {}, Invalid),
            (Reach(project_id=uuid7()), {}, NotFound),
            (Reach(since=timezone.now(), until=timezone.now() - timedelta(days=1)), {}, Invalid),
            (Reach(), {"reason": " "}, Invalid),
            (Reach(), {"reference": ""}, Invalid),
        ],
    )
    def test_a_hold_that_says_nothing_or_nonsense(
        self, home: factories.Household, reach: Reach, words: dict[str, str], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            holds.place_hold(factories.SYSTEM, home.tenant, reach, **{"reason": "R", "reference": "1", **words})

    def test_over_the_api_by_two_persons(self, home: factories.Household) -> None:
        second = factories.user()
        factories.membership(home.tenant, second)
        one, two, base = client(home.admin), client(second), f"/api/tenants/{home.tenant.slug}/legal-holds/"
        made = one.post(base, {"reason": "Inquiry", "reference": "2026/114", "data_class": "internal"}, format="json")
        assert made.status_code == 201, made.content
        place = f"{base}{made.json()['id']}/"
        assert one.post(f"{place}request-release/", {"reason": "closed"}, format="json").status_code == 200
        refused = one.post(f"{place}release/", format="json")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "second_person")
        released = two.post(f"{place}release/", format="json")
        assert released.status_code == 200, released.content
        assert released.json()["released_by"] == str(second.id)
        assert one.get(f"{base}?active=true").json()["data"] == []
        assert [hold["id"] for hold in one.get(f"{base}?active=false").json()["data"]] == [made.json()["id"]]
        told = [event for event in factories.events_of(home.tenant.id) if "legal_hold" in str(event["type"])]
        assert [event["type"] for event in told] == [
            "legal_hold.placed",
            "legal_hold.release_requested",
            "legal_hold.released",
        ]
        assert "Inquiry" not in json.dumps(told)

    def test_by_commands(self, home: factories.Household) -> None:
        def run(*arguments: str) -> Any:
            out = StringIO()
            call_command("legalholds", "--tenant", home.tenant.slug, *arguments, "--json", stdout=out)
            return json.loads(out.getvalue())

        second = factories.user()
        factories.membership(home.tenant, second)
        hold = run("--place", "--reason", "Inquiry", "--reference", "1", "--since", "2026-01-01T00:00:00Z")
        assert run("--request-release", hold["id"], "--by", home.admin.email, "--reason", "over")["state"] == (
            "release asked for"
        )
        with pytest.raises(CommandError, match="second person"):
            run("--release", hold["id"], "--by", home.admin.email)
        with pytest.raises(CommandError, match="--by"):
            run("--release", hold["id"])
        assert run("--release", hold["id"], "--by", second.email)["state"] == "released"
        assert [line["state"] for line in run()] == ["released"]


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


def client(person: User) -> APIClient:
    made = APIClient()
    made.force_login(person)
    return made


def command_person(person: User) -> Any:
    """A person in whose name a command acts: no fresh login is asked for."""
    return actor_of_user(person, "command")


def auditor(home: factories.Household) -> Any:
    person = factories.user()
    factories.membership(home.tenant, person, Role.AUDITOR)
    return actor_of_user(person)


def principal(home: factories.Household, key: Any) -> Any:
    return factories.Household(home.tenant, home.project, home.admin, key, "").principal


def release(home: factories.Household, hold: LegalHold) -> None:
    second = factories.user()
    factories.membership(home.tenant, second)
    holds.request_release(command_person(home.admin), hold, "over")
    holds.release_hold(command_person(second), hold)
