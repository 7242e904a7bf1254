"""Forwarding to real receivers: order and completeness over kills, who is trusted, who is in nobody's way."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from kasbah.audit.forwarding import sending, syslog
from kasbah.audit.forwarding.destination import Item
from kasbah.audit.forwarding.models import Forwarder
from kasbah.audit.models import Intake
from kasbah.audit.services import Event, EventType, Outcome, forwarding
from kasbah.audit.tasks import forward_log
from kasbah.common import rls
from kasbah.common.errors import Conflict
from tests import factories
from tests.audit.forwarded import again, firsts, log_of, row, to_https, to_syslog, waiting
from tests.audit.logs import WHO, run, unguarded, write
from tests.audit.receivers import Authority, HttpsReceiver, SyslogReceiver, parsed, served

pytestmark = pytest.mark.django_db(transaction=True)


def test_every_event_comes_in_order_over_deaths_of_the_receiver(
    tenant: UUID, receiver: SyslogReceiver, quick: None
) -> None:
    write(tenant, 70)
    write(None, 30)
    run()
    soc = to_syslog(receiver, from_start=True)
    run()
    while waiting(soc):
        receiver.die_after = 0 if receiver.deaths >= 6 else 1 + receiver.deaths * 3
        again()
        if receiver.deaths < 6:
            assert (
                "closed" in row(soc).last_error or "connection" in row(soc).last_error or "TLS" in row(soc).last_error
            )
    assert receiver.deaths == 6
    messages = receiver.messages
    origins = {None: "test/audit/system", tenant: f"test/audit/{tenant}"}
    for whose, origin in origins.items():
        assert firsts(messages, origin) == log_of(whose)
    assert len(messages) > sum(len(log_of(whose)) for whose in origins)  # what the dead had taken came again
    with rls.platform_scope():
        stored = {event.id: bytes(event.event) for event in Intake.objects.all()}
    for each in messages:
        assert each.event == stored[UUID(each.data["id"])]
        assert each.data["leaf"] == hashlib.sha256(b"\0" + each.event).hexdigest()
    found = row(soc)
    assert (found.sent, found.failures, found.last_error) == (len(stored), 0, "")


def test_it_takes_the_waiting_for_the_close_to_lose_nothing(
    tenant: UUID, receiver: SyslogReceiver, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: a sender that is content when the kernel took its bytes loses what a dead receiver left."""
    monkeypatch.setattr(syslog, "_still_there", lambda line: None)
    monkeypatch.setattr(syslog, "_close", lambda line: None)
    write(tenant, 20)
    run()
    soc = to_syslog(receiver, tenant_id=tenant, from_start=True)
    receiver.die_after = 3
    again()
    assert waiting(soc) == 0
    assert len(firsts(receiver.messages, f"test/audit/{tenant}")) < 20


def test_ocsf_over_https_with_refusals_between(tenant: UUID, authority: Authority, quick: None) -> None:
    write(tenant, 50)
    run()
    receiver = HttpsReceiver(authority, statuses=[200, 500, 429, 302, 200, 503])
    with served(receiver) as url:
        secret = {"header_name": "Authorization", "header_value": "Splunk hunter2"}
        lake = to_https(url, authority, tenant_id=tenant, from_start=True, **secret)
        run()
        errors = []
        pauses = []
        while waiting(lake):
            again()
            if (now := row(lake)).last_error:
                errors.append(now.last_error)
                pauses.append(round((now.retry_at - timezone.now()).total_seconds()))  # type: ignore[operator]
    assert errors == ["it answered 500", "it answered 429", "it answered 302", "it answered 503"]
    assert pauses[:3] == [2, 120, 8]
    assert pauses[3] == 2  # it had taken something in between
    ids = [line["metadata"]["uid"] for line in receiver.lines]
    assert ids == [str(each) for each in log_of(tenant)]
    assert receiver.lines[0]["class_uid"] == 6003
    assert receiver.headers[0]["authorization"] == "Splunk hunter2"
    assert receiver.headers[0]["content-type"] == "application/x-ndjson"


def test_https_that_took_but_did_not_say_so_gets_it_again_at_its_new_address(
    tenant: UUID, authority: Authority, quick: None
) -> None:
    write(tenant, 50)
    run()
    receiver = HttpsReceiver(authority, takes_first={500}, statuses=[200, 500])
    with served(receiver) as url:
        lake = to_https(url, authority, tenant_id=tenant, from_start=True)
        run()
        again()
    assert len(receiver.lines) == 40  # of which it has said to have 20
    assert waiting(lake) == 31
    again()
    assert "refused" in row(lake).last_error.lower()
    with served(receiver) as url:
        forwarding.change_forwarder(WHO, row(lake), address=url)  # tried at once
        run()
        while sending.forward():
            pass
    ids = [line["metadata"]["uid"] for line in receiver.lines]
    assert ids[20:40] == ids[40:60]
    assert list(dict.fromkeys(ids)) == [str(each) for each in log_of(tenant)]
    event = factories.events_of(tenant)[-1]
    assert (event["type"], event["details"]["fields"]) == ("forwarding.changed", ["address"])  # type: ignore[index]


@pytest.mark.parametrize("altered", [b"[]", b"\xff", b'{"details":{}}', b"["])
def test_an_altered_event_is_named_and_stops_nothing_behind_it(
    tenant: UUID, receiver: SyslogReceiver, superuser: Any, altered: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = write(tenant, 5)
    run()
    with unguarded(superuser) as execute:
        execute("UPDATE audit_intake SET event = %s WHERE id = %s", [altered, first])
    lake = HttpsReceiver(receiver.authority)
    soc = to_syslog(receiver, tenant_id=tenant, from_start=True)
    with served(lake) as url:
        other = to_https(url, receiver.authority, tenant_id=tenant, from_start=True)
        again()
    assert firsts(receiver.messages, f"test/audit/{tenant}")[: len(others)] == others
    assert [line["metadata"]["uid"] for line in lake.lines][: len(others)] == [str(one) for one in others]
    for each in (soc, other):
        assert f"1 events were altered in the database and are left out (test/audit/{tenant} 0)" in row(each).last_error
        assert (row(each).failures, waiting(each)) == (0, 0)
    assert "run: auditlog check" in caplog.text


def test_the_fault_of_one_destination_keeps_the_others_from_nothing(
    tenant: UUID, receiver: SyslogReceiver, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tenant, 5)
    run()
    bad = to_syslog(receiver, "bad", tenant_id=tenant, from_start=True)
    good = to_syslog(receiver, "good", tenant_id=tenant, from_start=True)
    opened = sending.opened

    def failing(one: Forwarder) -> Any:
        if one.pk == bad.pk:
            raise KeyError("a defect")
        return opened(one)

    monkeypatch.setattr(sending, "opened", failing)
    again()
    assert (waiting(good), waiting(bad) > 0) == (0, True)


def test_a_busy_log_lets_others_in(tenant: UUID, receiver: SyslogReceiver, quick: None) -> None:
    write(tenant, 100)
    write(None, 5)
    run()
    to_syslog(receiver, from_start=True)
    run()
    with rls.platform_scope():
        ident = Forwarder.objects.get().pk
    batch = sending._next(ident)
    assert batch is not None
    assert {item.origin for item in batch.items} == {"test/audit/system", f"test/audit/{tenant}"}
    assert len(batch.items) <= sending.EVENTS


def test_a_batch_ends_at_its_size_and_a_large_event_goes_alone(
    tenant: UUID, receiver: SyslogReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tenant, 3)
    run()
    soc = to_syslog(receiver, tenant_id=tenant, from_start=True)
    for most, count in ((1, 1), (10**6, 3)):
        monkeypatch.setattr(sending, "BYTES", most)
        batch = sending._next(soc.pk)
        assert batch is not None
        assert len(batch.items) == count


def test_it_pauses_after_a_failure_and_longer_each_time(authority: Authority, receiver: SyslogReceiver) -> None:
    soc = to_syslog(receiver)
    receiver.stop()
    run()
    forward_log()
    first = row(soc)
    assert first.failures == 1
    assert "refused" in first.last_error.lower()
    forward_log()  # not due
    assert row(soc).failures == 1
    with rls.platform_scope():
        Forwarder.objects.update(failures=20)
    again()
    assert 200 < (row(soc).retry_at - timezone.now()).total_seconds() <= 300  # type: ignore[operator]


def test_one_that_hangs_is_in_nobodys_way(
    tenant: UUID, authority: Authority, receiver: SyslogReceiver, quick: None
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections and never says anything
    try:
        for number, kind in enumerate((to_syslog, to_https)):
            port = silent.getsockname()[1]
            if kind is to_syslog:
                to_syslog(receiver, f"hangs-{number}", address=f"localhost:{port}")
            else:
                to_https(f"https://localhost:{port}/", authority, f"hangs-{number}")
        soc = to_syslog(receiver)
        write(tenant, 30)
        run()
        sends = threading.Thread(target=sending.forward)
        sends.start()
        events = write(tenant, 100)
        while_it_hung = sends.is_alive()
        sends.join()
        assert while_it_hung
        assert waiting(soc) == 0
        assert len(events) == 100
    finally:
        silent.close()
    with rls.platform_scope():
        errors = dict(Forwarder.objects.values_list("name", "last_error"))
    assert errors == {"hangs-0": "it did not answer in time", "hangs-1": "it did not answer in time", "soc": ""}


def test_what_was_taken_but_not_noted_comes_again_with_its_id(
    tenant: UUID, receiver: SyslogReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tenant, 3)
    run()
    to_syslog(receiver, tenant_id=tenant, from_start=True)

    def crash(batch: sending.Batch) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr(sending, "_taken", crash)
        assert sending.forward() == 0
    again()
    ids = [each.data["id"] for each in receiver.messages]
    assert ids == [str(each) for each in log_of(tenant)] * 2
    again()
    assert len(receiver.messages) == len(ids)
    write(tenant)
    run()
    again()
    assert [each.data["index"] for each in receiver.messages[len(ids):]] == ["3", "4"]  # fmt: skip


def test_a_tenants_destination_gets_that_log_alone_and_a_new_one_what_comes_from_now_on(
    tenant: UUID, receiver: SyslogReceiver
) -> None:
    other = factories.tenant().id
    write(tenant, 4)
    write(other, 4)
    run()
    to_syslog(receiver, tenant_id=tenant)
    later = write(tenant, 2)
    write(other, 2)
    run()
    sending.forward()
    assert {each.data["log"] for each in receiver.messages} == {f"test/audit/{tenant}"}
    kinds = [each.header["kind"] for each in receiver.messages]
    assert kinds == ["forwarding.created", "audit.read", "audit.read"]
    assert firsts(receiver.messages, f"test/audit/{tenant}")[1:] == later


def test_switching_off_is_an_event_of_every_log_that_was_forwarded(tenant: UUID, receiver: SyslogReceiver) -> None:
    write(tenant)
    run()
    soc = to_syslog(receiver)
    forwarding.disable_forwarder(WHO, soc)
    run()
    sending.forward()
    assert receiver.texts == []
    for whose in (None, tenant):
        event = factories.events_of(whose)[-1]
        assert event["type"] == "forwarding.disabled"
        assert event["details"]["destination"] == f"localhost:{receiver.port}"  # type: ignore[index]
    with pytest.raises(Conflict):
        forwarding.disable_forwarder(WHO, soc)
    forwarding.enable_forwarder(WHO, soc)
    run()
    sending.forward()
    kinds = [each.header["kind"] for each in receiver.messages if each.data["log"].endswith(str(tenant))]
    assert kinds == ["forwarding.created", "forwarding.disabled", "forwarding.enabled"]  # nothing was lost
    forwarding.remove_forwarder(WHO, soc)
    assert factories.events_of(tenant)[-1]["type"] == "forwarding.removed"


def test_what_was_pruned_before_it_was_sent_is_counted(
    tenant: UUID, receiver: SyslogReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tenant, 5)
    run()
    soc = to_syslog(receiver, tenant_id=tenant, from_start=True)
    gone = sending.READ.replace("= leaf.event_id", "= leaf.event_id AND leaf.index > 2")
    assert gone != sending.READ
    monkeypatch.setattr(sending, "READ", gone)
    sending.forward()
    assert [each.data["index"] for each in receiver.messages] == ["3", "4"]
    assert (row(soc).pruned, row(soc).sent, waiting(soc)) == (3, 2, 0)


@pytest.mark.parametrize(("outcome", "severity"), [("success", 6), ("denied", 4), ("failure", 3), ("cancelled", 5)])
def test_the_form_of_a_message(outcome: str, severity: int, settings: Any) -> None:
    settings.SYSLOG_PEN = 4711
    details = {"text": 'quotes " and ] and \\ and é'}
    event = Event(type=EventType.LOGIN_FAILED, tenant_id=None, actor=WHO, outcome=Outcome(outcome), details=details)
    item = Item('inst"]\\/audit/system', 7, b"\1" * 32, event.encoded)
    text = syslog.message(item)
    found = parsed(text)
    assert found.header["priority"] == str(13 * 8 + severity)
    assert found.header["time"] == json.loads(event.encoded)["time"]
    assert (found.header["app"], found.header["kind"]) == ("kasbah", "authentication.login_failed")
    assert found.header["name"] == "kasbah@4711"
    assert found.data == {"log": 'inst"]\\/audit/system', "index": "7", "leaf": "01" * 32, "id": str(event.id)}
    assert found.event == event.encoded
    assert syslog.frame(text) == str(len(text)).encode() + b" " + text


def test_names_of_events_fit_a_message() -> None:
    assert max(len(kind.value) for kind in EventType) <= 32
