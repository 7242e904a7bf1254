"""Who is refused is on record, and cannot fill the log by knocking; processes tell of their settings and pauses."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.core.management import CommandError, call_command
from django.test import Client
from rest_framework.test import APIClient

from kasbah.audit.log import presence
from kasbah.audit.log.memory import SignerRefuses
from kasbah.audit.log.models import SequencerState
from kasbah.audit.models import Intake
from kasbah.audit.services import EventType, denials
from kasbah.audit.services.denials import Denial, Denials
from kasbah.audit.tasks import sequence_log
from kasbah.common import rls
from kasbah.common.errors import Forbidden, Invalid, KasbahError, Unauthenticated
from kasbah.config import noted
from kasbah.gateway.app import create_app
from kasbah.gateway.exchange import Exchange
from tests import factories
from tests.audit.logs import unguarded
from tests.infra import code

pytestmark = pytest.mark.django_db(transaction=True)
KNOCK = Denial(EventType.AUTHENTICATION_DENIED, "GET /api/sites/", "invalid_api_key")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Denials:
    made = Denials()
    monkeypatch.setattr("kasbah.identity.denials.denials", made)
    return made


def recorded(*kinds: EventType) -> list[dict[str, Any]]:
    with rls.platform_scope():
        rows = Intake.objects.filter(type__in=[kind.value for kind in kinds]).order_by("id")
        return [json.loads(bytes(row.event)) for row in rows]


def told() -> list[dict[str, Any]]:
    return recorded(EventType.AUTHENTICATION_DENIED, EventType.AUTHORIZATION_DENIED)


def test_the_management_api_tells_whom_it_refused(fresh: Denials) -> None:
    home, stranger = factories.household(), factories.user()
    known = APIClient()
    known.force_authenticate(None)
    known.force_login(stranger)
    assert Client().get("/api/sites/", headers={"Authorization": "Bearer ksb_nothing"}).status_code == 401
    assert known.post("/api/sites/", {}, format="json").status_code == 403
    assert known.get(f"/api/tenants/{home.tenant.slug}/members/").status_code == 404  # hidden, and denied
    developer = factories.user()
    factories.membership(home.tenant, developer, "developer")
    known.force_login(developer)
    assert known.post(f"/api/tenants/{home.tenant.slug}/members/", {}, format="json").status_code == 403
    fresh.write()
    found = {(one["type"], one["resource"]["id"], one["reason"], one.get("tenant", "")) for one in told()}
    members = "/api/tenants/<slug:tenant>/members/"
    assert found == {
        ("authentication.denied", "GET /api/sites/", "invalid_api_key", ""),
        ("authorization.denied", "POST /api/sites/", "permission_denied", ""),
        ("authorization.denied", f"GET {members}", "not_found", ""),
        ("authorization.denied", f"POST {members}", "permission_denied", str(home.tenant.id)),
    }
    assert {one["actor"]["kind"] for one in told()} == {"anonymous", "user"}
    text = json.dumps(told())
    assert "ksb_nothing" not in text
    assert "127.0.0.1" not in text
    assert home.tenant.slug not in text


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unauthenticated("No."), "authentication.denied"),
        (Forbidden("No."), "authorization.denied"),
        (Forbidden("No.", code="residency_denied"), None),  # has an event of its own
        (Invalid("No."), None),
    ],
)
async def test_the_gateway_tells_whom_it_refused(
    fresh: Denials, monkeypatch: pytest.MonkeyPatch, error: KasbahError, kind: str | None
) -> None:
    async def route(exchange: Exchange) -> None:
        raise error

    async def send(message: Any) -> None: ...

    async def receive() -> Any: ...

    monkeypatch.setattr("kasbah.gateway.app.denials", fresh)
    gateway = create_app()
    monkeypatch.setattr(gateway, "_route", route)
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": []}
    await gateway._answer(Exchange(scope | {"client": ("192.0.2.1", 1)}, receive, send))
    await sync_to_async(fresh.write)()
    found = await sync_to_async(told)()
    assert [one["type"] for one in found] == ([kind] if kind else [])
    assert "192.0.2.1" not in json.dumps(found)
    assert all(one["resource"]["id"] == "POST /v1/chat/completions" for one in found)


def test_a_command_tells_that_it_was_refused(fresh: Denials, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise Forbidden("Another person must.")

    monkeypatch.setattr("kasbah.audit.management.commands.auditlog.upkeep.logs", refuses)
    with pytest.raises(CommandError):
        call_command("auditlog")
    with pytest.raises(CommandError):
        call_command("createproject", "--tenant", "nobody", "--slug", "p", "--name", "P")  # wrong, not refused
    fresh.end()
    assert [(one["resource"]["id"], one["actor"]["authentication"]) for one in told()] == [
        ("command auditlog", "command")
    ]


def test_what_succeeds_or_is_merely_wrong_is_no_denial(fresh: Denials) -> None:
    home = factories.household()
    admin = APIClient()
    admin.force_login(home.admin)
    place = f"/api/tenants/{home.tenant.slug}/members/"
    assert admin.get(place).status_code == 200
    assert admin.post(place, {"nonsense": 1}, format="json").status_code == 400
    assert admin.get(f"{place}{home.tenant.id}/").status_code == 404
    fresh.write()
    assert told() == []


def test_the_same_is_counted_and_not_repeated(fresh: Denials) -> None:
    for _ in range(500):
        fresh.note(KNOCK, "192.0.2.1")
    fresh.write(now=0.0)
    assert [one["details"]["count"] for one in told()] == [500]
    for _ in range(300):
        fresh.note(KNOCK, "192.0.2.1")
    fresh.write(now=59.0)
    assert len(told()) == 1
    fresh.write(now=60.0)
    assert [one["details"]["count"] for one in told()] == [500, 300]
    fresh.write(now=1000.0)
    assert len(told()) == 2


def test_many_sources_cannot_fill_the_log(fresh: Denials) -> None:
    for number in range(5_000):
        fresh.note(KNOCK, f"192.0.2.{number}")
    fresh.write(now=0.0)
    assert len(told()) == denials.MOST + 1
    assert sum(one["details"]["count"] for one in told()) == 5_000
    assert [one["details"]["count"] for one in told() if one["resource"]["id"] == "others"] == [5_000 - denials.MOST]


def test_what_cannot_be_written_stays_counted(fresh: Denials, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> None:
        raise psycopg.OperationalError("away")

    fresh.note(KNOCK, "a")
    with monkeypatch.context() as patch:
        patch.setattr(denials, "record_apart", away)
        fresh.write()
    assert told() == []
    fresh.end()
    fresh.write()
    assert [one["details"]["count"] for one in told()] == [1]


def test_the_sequencer_tells_when_it_begins_pauses_and_stops(tenant: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses() -> None:
        raise SignerRefuses("an old database")

    def reasons() -> list[str]:
        return [one["reason"] for one in recorded(EventType.SEQUENCER_STARTED, EventType.SEQUENCER_STOPPED)]

    for _ in range(3):
        sequence_log()
    assert reasons() == ["first"]
    with monkeypatch.context() as patch:
        patch.setattr("kasbah.audit.tasks.sequence", refuses)
        for _ in range(3):
            sequence_log()
    assert reasons() == ["first", "signer_refuses"]
    sequence_log()
    assert reasons()[2:] == ["signer_agrees"]
    with rls.platform_scope():
        earlier = SequencerState.objects.get().seen_at - timedelta(seconds=90)
        SequencerState.objects.update(seen_at=earlier)
    sequence_log()
    assert reasons()[3:] == ["after_pause"]
    assert recorded(EventType.SEQUENCER_STARTED)[-1]["details"]["pause_seconds"] >= 90
    with rls.platform_scope():
        SequencerState.objects.update(seen_at=SequencerState.objects.get().seen_at - presence.NOTE_EVERY)
    sequence_log()
    assert len(reasons()) == 4


def test_a_process_that_begins_with_other_settings_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert noted.note("serve")
    assert not noted.note("serve")
    assert noted.note("housekeeping")  # its first
    monkeypatch.setenv("KASBAH_WITNESSES", "")
    assert not noted.note("serve")
    monkeypatch.setenv("KASBAH_TRUSTED_PROXIES", "192.0.2.7")
    assert noted.note("serve")
    last = recorded(EventType.CONFIGURATION_CHANGED)[-1]
    assert last["details"]["changed"] == ["TRUSTED_PROXIES"]
    assert "192.0.2.7" not in json.dumps(last)


def test_every_setting_is_noted_or_left_out() -> None:
    known = set(code.settings_read("platform/kasbah"))
    assert known - set(noted.NOTED) - set(noted.LEFT_OUT) == set(), "is it a secret? Say so in kasbah/config/noted.py"
    assert set(noted.NOTED) & set(noted.LEFT_OUT) == set()
    assert (set(noted.NOTED) | set(noted.LEFT_OUT)) - known == set()


@pytest.mark.parametrize("altered", [b"\xff", b"[]", b"{", b'{"resource":{"id":"serve"},"details":{"settings":[1]}}'])
def test_an_altered_event_of_the_settings_keeps_no_process_from_its_start(superuser: Any, altered: bytes) -> None:
    assert noted.note("serve")
    assert not noted.note("serve")
    with unguarded(superuser) as execute:
        execute("UPDATE audit_intake SET event = %s WHERE type = 'configuration.changed'", [altered])
    assert noted.note("serve"), "what it was is not known any more, so it is told again"
