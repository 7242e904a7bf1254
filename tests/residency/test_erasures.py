"""Erasure on demand: two persons, what stands against it, and that nothing opens what was erased."""

from __future__ import annotations

import json
from datetime import date, timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.utils import timezone

from kasbah.audit.content import demand, erasure, vault
from kasbah.audit.content.opening import Altered, open_record
from kasbah.audit.models import Content, ContentKey, Erasure
from kasbah.audit.services import ActorRef
from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound
from kasbah.common.ids import uuid7
from kasbah.identity.models import ApiKey, User
from kasbah.identity.services import actor_of_user
from kasbah.residency.services import asked as asking
from kasbah.residency.services import erasures, holds, retention
from kasbah.residency.services.erasures import Wish
from kasbah.residency.services.holds import Reach
from tests import factories

from .kept import client, left, policy, run, store

pytestmark = pytest.mark.django_db
BOXES = ("opening", "record_key", "ciphertext")


@pytest.fixture
def home() -> factories.Household:
    return factories.household()


def by(person: User) -> Any:
    """A person in whose name a command acts."""
    return actor_of_user(person, "command")


def second(home: factories.Household) -> Any:
    person = factories.user()
    factories.membership(home.tenant, person)
    return by(person)


def ask(home: factories.Household, basis: str = "data_subject", **wish: Any) -> Erasure:
    return erasures.request_erasure(by(home.admin), home.tenant, Wish(**wish), basis=basis, reason="R")


def month_of(row: Content) -> date:
    with rls.tenant_scope(row.tenant_id):
        return ContentKey.objects.get(id=row.key_id).month


def opened(row: Content) -> Any:
    with rls.tenant_scope(row.tenant_id):
        return open_record(Content.objects.select_related("key").get(id=row.id))


def erased(home: factories.Household) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [dict(event) for event in factories.events_of(home.tenant.id)]
    return [event for event in found if event["type"] == "content.erased"]


class TestWhatGoes:
    """What was asked for, and nothing else; the log says what."""

    def test_a_request(self, home: factories.Household) -> None:
        row, other = store(home, days=1), store(home, days=1)
        asked = ask(home, request_id=row.request_id)
        assert (left(row), asked.records, asked.digest) == ("all", 1, erasure.digest_of([row.id]))
        done = erasures.approve_erasure(second(home), asked, asked.digest)
        assert (left(row), left(other)) == ("nothing", "all")
        (event,) = erased(home)
        assert (event["id"], event["reason"]) == (str(done.event_id), "erasure_request")
        assert event["resource"]["digest"] == asked.digest
        assert event["details"]["requests"] == [row.request_id]
        shown = opened(row)
        assert (shown.content, shown.opening, shown.erased_reason) == (None, None, "erasure_request")
        assert opened(other).content == '{"prompt":"x"}'

    def test_a_month_goes_with_its_key(self, home: factories.Household) -> None:
        row, other = store(home, days=1), store(home, days=1)  # the factory makes a key for each
        asked = ask(home, month=month_of(row))
        factories.approve(second(home), asked)
        shown = opened(row)
        assert (shown.content, shown.opening, shown.erased_reason) == (None, None, "key_destroyed")
        assert opened(other).content == '{"prompt":"x"}'
        (event,) = erased(home)
        assert (event["reason"], event["details"]["key"]) == ("key_destroyed", str(row.key_id))
        assert event["details"]["requests"] == [row.request_id]
        with pytest.raises(NotFound, match="destroyed"):
            ask(home, month=month_of(row))
        policy(home)
        assert retention.standing(home.tenant)[1].kept.records == 1
        run(home)  # the rests of the row go, without a second event
        assert (left(row), left(other), len(erased(home))) == ("nothing", "all", 1)

    def test_a_person(self, home: factories.Household) -> None:
        key, _ = factories.api_key(home.project)
        person, his = factories.user(), ActorRef("api_key", str(key.id), "api_key")
        with rls.tenant_scope(home.tenant.id):
            ApiKey.objects.filter(pk=key.pk).update(created_by=person)
        rows = {
            "his": store(home, days=3, actor=his),
            "too old": store(home, days=9, actor=his),
            "another's": store(home, days=3),
        }
        asked = ask(home, person=person.id, since=timezone.now() - timedelta(days=5))
        late = store(home, days=0, actor=his)  # after it was asked for: not of it, and no obstacle
        factories.approve(second(home), asked)
        assert {name: left(row) for name, row in rows.items()} == {**dict.fromkeys(rows, "all"), "his": "nothing"}
        factories.approve(second(home), ask(home, person=key.id))
        assert [left(row) for row in (rows["too old"], late, rows["another's"])] == ["nothing", "nothing", "all"]

    def test_too_many_requests_are_not_named(self, home: factories.Household, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(demand, "MOST_TOLD", 0)
        row = store(home, days=1)
        factories.approve(second(home), ask(home, request_id=row.request_id))
        details = erased(home)[0]["details"]
        assert ("requests" in details, details["requests_count"]) == (False, 1)


class TestTwoPersons:
    """One asks, another agrees to exactly that."""

    def test_not_by_one(self, home: factories.Household) -> None:
        asked = ask(home, request_id=store(home, days=1).request_id)
        with pytest.raises(Forbidden, match="second person"):
            factories.approve(by(home.admin), asked)
        with (
            pytest.raises(IntegrityError, match="second_person"),
            rls.tenant_scope(home.tenant.id),
            transaction.atomic(),
        ):
            Erasure.objects.filter(pk=asked.pk).update(
                state="approved", reviewed_by=home.admin.id, event_id=uuid7(), reviewed_at=timezone.now()
            )

    def test_no_program_and_no_old_login(self, home: factories.Household) -> None:
        row = store(home, days=1)
        with pytest.raises(Forbidden, match="two persons"):
            erasures.request_erasure(
                factories.SYSTEM, home.tenant, Wish(request_id=row.request_id), basis="authority", reason="R"
            )
        person = factories.user()
        factories.membership(home.tenant, person)
        with pytest.raises(Forbidden, match="ten minutes"):
            factories.approve(actor_of_user(person), ask(home, request_id=row.request_id))

    def test_what_changed_since_is_not_agreed_to(self, home: factories.Household) -> None:
        row = store(home, days=1)
        asked = ask(home, request_id=row.request_id)
        with rls.tenant_scope(home.tenant.id):
            fields = {field.attname: getattr(row, field.attname) for field in Content._meta.concrete_fields}
            Content.objects.create(**{**fields, "id": uuid7(), "part": "answer"})
        with pytest.raises(Conflict, match="no longer what was asked for"):
            factories.approve(second(home), asked)
        with pytest.raises(Conflict, match="no longer"):
            erasures.approve_erasure(second(home), ask(home, request_id=row.request_id), "0" * 64)
        assert left(row) == "all"

    def test_a_request_expires_and_ends(self, home: factories.Household, settings: Any) -> None:
        settings.POLICY_REQUEST_DAYS = 0
        asked = ask(home, request_id=store(home, days=1).request_id)
        with pytest.raises(Conflict, match="expired"):
            factories.approve(second(home), asked)
        assert (erasures.expire_due(), erasures.expire_due()) == (1, 0)
        assert factories.events_of(home.tenant.id)[-1]["type"] == "erasure.expired"

    def test_request_that_cannot_be_ended_keeps_no_other(
        self, home: factories.Household, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings.POLICY_REQUEST_DAYS = 0
        for _ in range(3):
            ask(home, request_id=store(home, days=1).request_id)
        real, calls = asking.record, [0]

        def fails_once(event: Any) -> Any:
            calls[0] += 1
            if calls[0] == 2:
                raise ValueError("a defect")
            return real(event)

        monkeypatch.setattr(asking, "record", fails_once)
        assert (erasures.expire_due(), erasures.expire_due(), erasures.expire_due()) == (2, 1, 0)

    def test_what_is_asked_for_never_changes(self, home: factories.Household) -> None:
        asked = ask(home, request_id=store(home, days=1).request_id)
        with (
            pytest.raises(DatabaseError, match=r"permission denied|as it is"),
            rls.tenant_scope(home.tenant.id),
            transaction.atomic(),
        ):
            Erasure.objects.filter(pk=asked.pk).update(request_id="req_other")
        erasures.reject_erasure(second(home), asked, "No.")
        with (
            pytest.raises(DatabaseError, match="agreed to as it is"),
            rls.tenant_scope(home.tenant.id),
            transaction.atomic(),
        ):
            Erasure.objects.filter(pk=asked.pk).update(state="requested", reviewed_by=None)

    @pytest.mark.parametrize(
        ("wish", "error"),
        [
            (Wish(), Invalid),
            (Wish(request_id="r", person=uuid7()), Invalid),
            (Wish(month=date(2026, 1, 2)), Invalid),
            (Wish(request_id="r", since=timezone.now()), Invalid),
            (Wish(person=uuid7(), since=timezone.now() + timedelta(days=1)), Invalid),
            (Wish(request_id="req_none"), NotFound),
            (Wish(month=date(2026, 1, 1)), NotFound),
        ],
    )
    def test_a_wish_that_says_nothing_or_nonsense(
        self, home: factories.Household, wish: Wish, error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            erasures.request_erasure(by(home.admin), home.tenant, wish, basis="authority", reason="R")


class TestWhatStandsAgainstIt:
    """Holds always; floors unless the law asks."""

    def test_a_hold_is_named(self, home: factories.Household) -> None:
        row = store(home, days=1)
        asked = ask(home, request_id=row.request_id)
        month = ask(home, month=month_of(row))
        hold = holds.place_hold(factories.SYSTEM, home.tenant, Reach(), reason="R", reference="1")
        for wish in (asked, month):
            with pytest.raises(Conflict, match=str(hold.id)):
                factories.approve(second(home), wish)
        assert left(row) == "all"

    def test_a_floor_yields_to_the_law_alone(self, home: factories.Household) -> None:
        policy(home, floor=7)
        row = store(home, days=1)
        with pytest.raises(Conflict, match="floor"):
            ask(home, "own_decision", request_id=row.request_id)
        factories.approve(second(home), ask(home, "data_subject", request_id=row.request_id))
        assert left(row) == "nothing"

    def test_the_database_refuses_a_key_by_hand(self, home: factories.Household) -> None:
        row = store(home, days=1)
        with pytest.raises(DatabaseError, match="agreed to"), rls.tenant_scope(home.tenant.id), transaction.atomic():
            demand.destroy(demand.Target(tenant_id=home.tenant.id, key=row.key_id), [], uuid7())

    def test_the_database_refuses_what_is_held_whatever_is_asked(
        self, home: factories.Household, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        row = store(home, days=1)
        asked, month = ask(home, request_id=row.request_id), ask(home, month=month_of(row))
        holds.place_hold(factories.SYSTEM, home.tenant, Reach(), reason="R", reference="1")
        monkeypatch.setattr(demand, "holds_on", lambda _: [])
        for wish in (asked, month):
            with pytest.raises(DatabaseError, match="under a legal hold"), transaction.atomic():
                factories.approve(second(home), wish)
        assert (left(row), opened(row).content) == ("all", '{"prompt":"x"}')


class TestWhatSurvives:
    """A copy that was made before does not open once the key is gone."""

    @pytest.mark.parametrize("kept", ["nothing", "the wrapped key"])
    @pytest.mark.django_db(transaction=True)
    def test_a_copy_of_the_row(self, home: factories.Household, superuser: psycopg.Connection, kept: str) -> None:
        """With the wrapped key out of a backup it opens: the negative control, and why that must go too."""
        row = store(home, days=1)
        boxes = {name: bytes(getattr(row, name)) for name in BOXES}
        with rls.tenant_scope(home.tenant.id):
            wrapped = bytes(ContentKey.objects.get(id=row.key_id).wrapped or b"")
        factories.approve(second(home), ask(home, month=month_of(row)))
        run_clear(home)
        assert left(row) == "nothing"
        back(superuser, "audit_content", row.id, {**boxes, "erased_at": None, "erased_event": None})
        if kept == "the wrapped key":
            back(superuser, "audit_contentkey", row.key_id, {"wrapped": wrapped, "destroyed_at": None})
        assert opened(row).content == (None if kept == "nothing" else '{"prompt":"x"}')

    @pytest.mark.django_db(transaction=True)
    def test_content_put_back_into_an_erased_row_is_not_shown(
        self, home: factories.Household, superuser: psycopg.Connection
    ) -> None:
        row = store(home, days=1)
        boxes = {name: bytes(getattr(row, name)) for name in BOXES}
        factories.approve(second(home), ask(home, request_id=row.request_id))
        back(superuser, "audit_content", row.id, boxes)
        with pytest.raises(Altered, match="survives its erasure"):
            opened(row)

    def test_no_process_keeps_a_key_for_more_than_a_minute(self) -> None:
        assert vault.KEPT_FOR <= 60  # tests/audit/test_content.py: by then an open key is forgotten


def run_clear(home: factories.Household) -> None:
    with rls.tenant_scope(home.tenant.id):
        assert erasure.clear_batch(home.tenant.id) == 1


def back(superuser: psycopg.Connection, table: str, row: Any, values: dict[str, Any]) -> None:
    """Put back what was erased, past the guards."""
    triggers = ["audit_content_guard", "audit_content_asked"] if table == "audit_content" else [f"{table}_guard"]
    for trigger in triggers:
        superuser.execute(f"ALTER TABLE {table} DISABLE TRIGGER {trigger}")  # type: ignore[arg-type]
    columns = ", ".join(f"{name} = %({name})s" for name in values)
    superuser.execute(f"UPDATE {table} SET {columns} WHERE id = %(id)s", {**values, "id": row})  # type: ignore[arg-type]  # noqa: S608
    for trigger in triggers:
        superuser.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")  # type: ignore[arg-type]


class TestEntrances:
    """Over the API, and by commands."""

    def test_over_the_api_by_two_persons(self, home: factories.Household) -> None:
        other, row = factories.user(), store(home, days=1)
        factories.membership(home.tenant, other)
        one, two, base = client(home.admin), client(other), f"/api/tenants/{home.tenant.slug}/erasures/"
        wish = {"request_id": row.request_id, "basis": "data_subject", "reason": "She asked"}
        made = one.post(base, wish, format="json")
        assert made.status_code == 201, made.content
        place = f"{base}{made.json()['id']}/"
        for body in ({}, {"digest": ""}, {"digest": None}, None):
            empty = two.post(f"{place}approve/", body, format="json")
            assert (empty.status_code, empty.json()["error"]["param"]) == (400, "digest")
        refused = one.post(f"{place}approve/", {"digest": made.json()["digest"]}, format="json")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "second_person")
        done = two.post(f"{place}approve/", {"digest": made.json()["digest"]}, format="json")
        assert (done.status_code, done.json()["state"]) == (200, "approved"), done.content
        assert [item["id"] for item in one.get(f"{base}?state=approved").json()["data"]] == [made.json()["id"]]
        told = [event for event in factories.events_of(home.tenant.id) if "eras" in str(event["type"])]
        assert {event["type"] for event in told} == {"erasure.requested", "erasure.approved", "content.erased"}
        assert "She asked" not in json.dumps(told)

    def test_by_commands(self, home: factories.Household) -> None:
        def run(*arguments: str) -> Any:
            out = StringIO()
            call_command("erasures", *arguments, "--tenant", home.tenant.slug, "--json", stdout=out)
            return json.loads(out.getvalue())

        row, other = store(home, days=1), second(home)
        email = User.objects.get(pk=other.id).email
        words = ("--basis", "authority", "--reason", "Order 7", "--by", home.admin.email)
        asked = run("request", "--month", str(month_of(row))[:7], *words)
        with pytest.raises(CommandError, match="--by"):
            run("approve", "--id", asked["id"])
        with pytest.raises(CommandError, match="second person"):
            run("approve", "--id", asked["id"], "--by", home.admin.email, "--digest", asked["digest"])
        with pytest.raises(CommandError, match="--digest"):
            run("approve", "--id", asked["id"], "--by", email)
        assert run("approve", "--id", asked["id"], "--by", email, "--digest", asked["digest"])["state"] == "approved"
        assert [line["state"] for line in run()] == ["approved"]
        with connection.cursor() as cursor, rls.tenant_scope(home.tenant.id):
            cursor.execute("SELECT wrapped FROM audit_contentkey WHERE id = %s", [row.key_id])
            assert cursor.fetchone() == (None,)
