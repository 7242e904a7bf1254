"""Legal holds: what they keep, who places them, and that it takes two persons to release one."""

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

from kasbah.audit.content import erasure
from kasbah.audit.models import LegalHold
from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound
from kasbah.common.ids import uuid7
from kasbah.identity.models import Role, User
from kasbah.identity.services import Actor, actor_of_key, actor_of_user
from kasbah.residency.services import holds
from kasbah.residency.services.holds import Reach
from tests import factories

from .kept import client, left, policy, run, store

pytestmark = pytest.mark.django_db


@pytest.fixture
def home() -> factories.Household:
    return factories.household()


def agree(who: Actor, hold: LegalHold) -> LegalHold:
    """Agree to the release as it stands now."""
    with rls.tenant_scope(hold.tenant_id):
        now = LegalHold.objects.get(pk=hold.pk)
    return holds.release_hold(who, now, holds.release_seen_of(now))


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
            agree(person, hold)
        holds.request_release(person, hold, "over")
        with pytest.raises(Conflict, match="asked for"):
            holds.request_release(person, hold, "again")
        with pytest.raises(Forbidden, match="second person"):
            agree(person, hold)

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
            agree(command_person(second), hold)
        holds.request_release(command_person(second), hold, "still over")
        assert agree(command_person(home.admin), hold).released_by == home.admin.id

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
        seen = one.get(place).json()["release_digest"]
        for body in ({}, {"digest": ""}, None):
            assert two.post(f"{place}release/", body, format="json").json()["error"]["param"] == "digest"
        assert (
            two.post(f"{place}release/", {"digest": "0" * 64}, format="json").json()["error"]["code"] == "changed_since"
        )
        refused = one.post(f"{place}release/", {"digest": seen}, format="json")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "second_person")
        released = two.post(f"{place}release/", {"digest": seen}, format="json")
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
            run("--release", hold["id"], "--by", home.admin.email, "--digest", run()[0]["digest"])
        with pytest.raises(CommandError, match="--digest"):
            run("--release", hold["id"], "--by", second.email)
        with pytest.raises(CommandError, match="--by"):
            run("--release", hold["id"])
        assert run("--release", hold["id"], "--by", second.email, "--digest", run()[0]["digest"])["state"] == "released"
        assert [line["state"] for line in run()] == ["released"]


def command_person(person: User) -> Any:
    """A person in whose name a command acts: no fresh login is asked for."""
    return actor_of_user(person, "command")


def principal(home: factories.Household, key: Any) -> Any:
    return factories.Household(home.tenant, home.project, home.admin, key, "").principal


def release(home: factories.Household, hold: LegalHold) -> None:
    second = factories.user()
    factories.membership(home.tenant, second)
    holds.request_release(command_person(home.admin), hold, "over")
    agree(command_person(second), hold)
