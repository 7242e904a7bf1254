"""Forwarding to real receivers: order and completeness over kills, who is trusted, who is in nobody's way."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from inference_worker.contract import egress
from kasbah.audit.forwarding import sending, syslog
from kasbah.audit.forwarding.destination import Item
from kasbah.audit.forwarding.models import Forwarder
from kasbah.audit.log import sequencer
from kasbah.audit.models import Intake
from kasbah.audit.services import Event, EventType, Outcome, forwarding
from kasbah.audit.tasks import forward_log
from kasbah.common import rls
from kasbah.common.errors import Conflict, Invalid
from tests import factories
from tests.audit.logs import WHO, run, write
from tests.audit.receivers import Authority, HttpsReceiver, Message, SyslogReceiver, parsed, served

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def receiver(authority: Authority) -> Iterator[SyslogReceiver]:
    made = SyslogReceiver(authority)
    yield made
    made.stop()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches and little patience."""
    monkeypatch.setattr(sending, "EVENTS", 20)
    monkeypatch.setattr(sending, "TIMEOUT", 1.0)


def to_syslog(receiver: SyslogReceiver, name: str = "soc", **fields: Any) -> Forwarder:
    given = {"address": f"localhost:{receiver.port}", "ca_certificate": receiver.authority.pem} | fields
    return forwarding.create_forwarder(WHO, name=name, kind="syslog_tls", **given)


def to_https(url: str, authority: Authority, name: str = "lake", **fields: Any) -> Forwarder:
    given = {"address": url, "ca_certificate": authority.pem} | fields
    return forwarding.create_forwarder(WHO, name=name, kind="ocsf_https", **given)


def row(of: Forwarder) -> Forwarder:
    with rls.platform_scope():
        return Forwarder.objects.get(pk=of.pk)


def waiting(of: Forwarder) -> int:
    with rls.platform_scope():
        return sending.waiting(of)


def again() -> int:
    """A run with no pause to wait for."""
    with rls.platform_scope():
        Forwarder.objects.update(retry_at=None)
    return sending.forward()


def log_of(tenant: UUID | None) -> list[UUID]:
    """The events of a log, in the order of their places."""
    with rls.platform_scope():
        log = sequencer.Log.objects.get(tenant_id=tenant)
        return list(sequencer.Leaf.objects.filter(log=log).order_by("index").values_list("event_id", flat=True))


def firsts(messages: list[Message], origin: str) -> list[UUID]:
    """Ids of one log in the order in which each came first."""
    return list(dict.fromkeys(UUID(each.data["id"]) for each in messages if each.data["log"] == origin))


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


def test_the_command_says_how_far_each_is(
    tenant: UUID, receiver: SyslogReceiver, authority: Authority, tmp_path: Path
) -> None:
    def command(*arguments: str) -> Any:
        out = io.StringIO()
        call_command("forwarders", *arguments, "--json", stdout=out)
        return json.loads(out.getvalue())

    (tmp_path / "token").write_text("Bearer hunter2\n")
    ca, header = ("--ca", str(authority.file)), ("--header", "X-Token", "--header-file", str(tmp_path / "token"))
    write(tenant, 4)
    run()
    command("add", "lake", "--kind", "ocsf_https", "--address", "https://localhost:1/", *ca, *header, "--from-start")
    command("add", "soc", "--kind", "syslog_tls", "--address", f"localhost:{receiver.port}", *ca)
    assert [(each["name"], each["header"]) for each in command()] == [("lake", "X-Token"), ("soc", "")]
    assert command("test", "soc")["taken"] is True
    run()
    sending.forward()
    lake, soc = command("status")
    assert lake["waiting"] > 4
    assert lake["failures"] == 1
    assert "refused" in lake["last_error"].lower()
    assert (soc["waiting"], soc["last_error"]) == (0, "")
    assert command("status", "soc") == [soc]
    for wrong, said in (
        (("enable",), "Name the destination"),
        (("enable", "nobody"), "Known: lake, soc"),
        (("add", "x", "--kind", "syslog_tls"), "Give --address, --ca"),
        (("add", "x", "--kind", "syslog_tls", "--address", "a", "--ca", str(tmp_path / "none")), "--ca: cannot read"),
    ):
        with pytest.raises(CommandError, match=said):
            command(*wrong)


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


def test_only_the_named_authority_and_host_are_trusted(
    authority: Authority, tmp_path: Path, receiver: SyslogReceiver, quick: None
) -> None:
    other = Authority(tmp_path)
    cases = {
        "right": ({}, ""),
        "authority": ({"ca_certificate": other.pem}, "its certificate is not accepted: "),
        "host": ({"address": f"127.0.0.1:{receiver.port}"}, "its certificate is not accepted: IP address mismatch"),
    }
    secure = HttpsReceiver(authority)
    with served(secure) as url:
        for name, (fields, said) in cases.items():
            for made in (
                to_syslog(receiver, f"s-{name}", **fields),
                to_https(url, authority, f"h-{name}",
                         **({"address": url.replace("localhost", "127.0.0.1")} if "address" in fields else fields)),
            ):  # fmt: skip
                tried = forwarding.try_forwarder(WHO, made)
                assert tried.taken == (not said), (name, tried)
                assert said in tried.message
    assert [each.header["kind"] for each in receiver.messages] == ["forwarding.tried"]
    assert receiver.messages[0].data["trial"] == "true"
    assert len(secure.lines) == 1
    assert secure.lines[0]["unmapped"]["trial"] is True


def test_a_client_certificate_is_shown_where_it_is_asked_for(authority: Authority, tmp_path: Path) -> None:
    own = Authority(tmp_path)
    certificate, key = own.issue("kasbah")
    asks = SyslogReceiver(authority, client_ca=own.file)
    try:
        pair = {"client_certificate": certificate.read_text(), "client_key": key.read_text()}
        without, with_it = to_syslog(asks, "without"), to_syslog(asks, "with", **pair)
        assert not forwarding.try_forwarder(WHO, without).taken
        assert forwarding.try_forwarder(WHO, with_it).taken
    finally:
        asks.stop()


def test_what_answers_is_no_syslog_receiver(authority: Authority) -> None:
    odd = SyslogReceiver(authority, says=b"HTTP/1.1 400 Bad Request\r\n\r\n")
    try:
        tried = forwarding.try_forwarder(WHO, to_syslog(odd))
        assert not tried.taken
    finally:
        odd.stop()


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
        with pytest.raises(RuntimeError):
            sending.forward()
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


@pytest.fixture
def guarded() -> Iterator[egress.Guard]:
    made = egress.Guard("control plane", [])
    egress.install(made)
    yield made
    egress.install(None)


def test_a_destination_that_is_not_allowed_is_refused_with_the_way_out(
    authority: Authority, receiver: SyslogReceiver, guarded: egress.Guard
) -> None:
    for made in (to_syslog(receiver), to_https("https://localhost:9/", authority)):
        tried = forwarding.try_forwarder(WHO, made)
        assert not tried.taken
        assert "add it to KASBAH_EGRESS_ALLOW" in tried.message
    guarded.allow("test", [f"localhost:{receiver.port}", f"127.0.0.1:{receiver.port}", f"[::1]:{receiver.port}"])
    assert forwarding.try_forwarder(WHO, _named("soc")).taken


def _named(name: str) -> Forwarder:
    with rls.platform_scope():
        return Forwarder.objects.get(name=name)


def test_secrets_are_sealed_and_never_shown(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture, superuser: Any
) -> None:
    from rest_framework.test import APIClient

    certificate, key = Authority(tmp_path).issue("kasbah")
    root = APIClient()
    root.force_login(factories.user(is_platform_admin=True))
    caplog.set_level(logging.DEBUG)
    receiver = HttpsReceiver(authority, statuses=[403, 403])  # which repeats the token in its answer
    with served(receiver) as url:
        body = {
            "name": "lake", "kind": "ocsf_https", "address": url, "ca_certificate": authority.pem,
            "client_certificate": certificate.read_text(), "client_key": key.read_text(),
            "header_name": "Authorization", "header_value": "Bearer hunter2",
        }  # fmt: skip
        made = root.post("/api/audit-forwarders/", body)
        assert made.status_code == 201, made.content
        place = f"/api/audit-forwarders/{made.json()['id']}/"
        answers = [
            made,
            root.get(place),
            root.get("/api/audit-forwarders/"),
            root.patch(place, {"header_value": "Bearer hunter3"}),
            root.post(place + "test/"),
            root.post("/api/audit-forwarders/", body),
            root.patch(place, {"header_value": "hunter4\nx: y"}),
        ]
        run()
        again()
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200, 409, 400]
    assert answers[4].json() == {"taken": False, "message": "It was not taken: it answered 403"}
    assert receiver.headers[0]["authorization"] == "Bearer hunter3"
    secret = key.read_text().splitlines()[1]
    seen = "".join(answer.content.decode() for answer in answers) + caplog.text + repr(sending.opened(_named("lake")))
    seen += json.dumps(factories.events_of(None)) + str(superuser.execute("TABLE audit_forwarder").fetchall())
    assert "hunter" not in seen.replace("\\", "")
    assert secret not in seen.replace("\\n", "\n")
    assert _named("lake").last_error == "it answered 403"
    assert root.patch(place, {"header_name": "", "header_value": ""}).json()["has_header_value"] is False


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("address", {"address": "siem.example.org:x"}),
        ("address", {"address": "https://siem.example.org"}),
        ("address", {"address": "user:pw@siem.example.org:6514"}),
        ("address", {"kind": "ocsf_https", "address": "http://siem.example.org/"}),
        ("address", {"kind": "ocsf_https", "address": "https://user:pw@siem.example.org/"}),
        ("ca_certificate", {"ca_certificate": "nonsense"}),
        ("ca_certificate", {"ca_certificate": ""}),
        ("client_key", {"client_certificate": "x"}),
        ("header_name", {"header_name": "X-Token", "header_value": "x"}),
        ("header_name", {"kind": "ocsf_https", "address": "https://a/", "header_name": "Host", "header_value": "x"}),
        ("header_value", {"kind": "ocsf_https", "address": "https://a/", "header_name": "X-Token"}),
        ("name", {"name": "So C"}),
        ("tenant", {"tenant_id": UUID(int=1)}),
    ],
)
def test_what_is_wrong_is_named(authority: Authority, param: str, fields: dict[str, Any]) -> None:
    given = {"name": "soc", "kind": "syslog_tls", "address": "siem.example.org", "ca_certificate": authority.pem}
    with pytest.raises(Invalid) as caught:
        forwarding.create_forwarder(WHO, **(given | fields))
    assert caught.value.param == param
    assert "pw" not in caught.value.message


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
