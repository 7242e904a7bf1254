"""Setting up forwarding: whom a destination trusts, what is refused, what is never shown."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import CommandError, call_command

from inference_worker.contract import egress
from kasbah.audit.forwarding import sending
from kasbah.audit.forwarding.models import Forwarder
from kasbah.audit.services import forwarding
from kasbah.common import rls
from kasbah.common.errors import Invalid
from tests import factories
from tests.audit.forwarded import again, to_https, to_syslog
from tests.audit.logs import WHO, run, write
from tests.audit.receivers import Authority, HttpsReceiver, SyslogReceiver, served

pytestmark = pytest.mark.django_db(transaction=True)


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
