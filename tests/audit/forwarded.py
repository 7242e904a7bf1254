"""What tests of forwarding share: destinations for receivers, and what came of them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from kasbah.audit.forwarding import sending
from kasbah.audit.forwarding.models import Forwarder
from kasbah.audit.log import sequencer
from kasbah.audit.services import forwarding
from kasbah.common import rls
from tests.audit.logs import WHO
from tests.audit.receivers import Authority, Message, SyslogReceiver


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
