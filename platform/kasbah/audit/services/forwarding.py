"""Destinations of forwarding. Each change is an event of the system log, and of every log that the destination gets.

Who may do this is asked by the caller: this app knows no permissions.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from kasbah.audit.forwarding import destination, sending, syslog
from kasbah.audit.forwarding.destination import Destination, Item, NotTaken
from kasbah.audit.forwarding.models import Forwarder, ForwarderPosition, Kind
from kasbah.audit.forwarding.sending import waiting
from kasbah.audit.log.merkle import leaf_hash
from kasbah.audit.log.models import Log
from kasbah.audit.models import Intake
from kasbah.audit.services.events import ActorRef, Event, EventType, Resource
from kasbah.audit.services.intake import record
from kasbah.common import rls, sealed, validation
from kasbah.common.errors import Conflict, Invalid
from kasbah.common.requestid import current

__all__ = ["Forwarder", "Kind", "waiting"]  # beside what is defined here

HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252})|[0-9A-Fa-f:.]+")
HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")
VALUE = re.compile(r"[!-~]([ -~]{0,4094}[!-~])?")
OWN_HEADERS = {"host", "content-type", "content-length", "transfer-encoding", "connection", "user-agent"}
SEALED = {"client_key": "client_key_sealed", "header_value": "header_value_sealed"}
WHERE = {
    Kind.SYSLOG_TLS: "Give host:port, such as siem.example.org:6514; without a port it is 6514.",
    Kind.OCSF_HTTPS: "Give an https:// URL without user and password, such as https://siem.example.org/ingest.",
}


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a trial."""

    taken: bool
    message: str


def create_forwarder(
    actor: ActorRef, *, name: str, kind: str, tenant_id: UUID | None = None, from_start: bool = False, **fields: str
) -> Forwarder:
    """A destination of every log, or of one tenant's; of what is there already it gets nothing but `from_start`.

    `fields`: address, ca_certificate, client_certificate, client_key, header_name, header_value. Raises Invalid,
    Conflict.
    """
    row = Forwarder(name=name, kind=kind, tenant_id=tenant_id)
    with rls.platform_scope():
        if tenant_id is not None and not Intake.objects.filter(tenant_id=tenant_id).exists():
            raise Invalid("No tenant of this id is in the audit log. List tenants at /api/tenants/.", param="tenant")
        _fill(row, fields)
        validation.save(row, f"There is a forwarder {name} already.", param="name")
        if not from_start:
            ForwarderPosition.objects.bulk_create(
                ForwarderPosition(forwarder=row, log=log, tenant_id=log.tenant_id, taken=log.size)
                for log in sending.logs_of(row)
            )
        _record(EventType.FORWARDING_CREATED, actor, row, from_start=from_start)
    return row


def change_forwarder(actor: ActorRef, row: Forwarder, **fields: str) -> Forwarder:
    """Change its name, address, certificates or header; it is tried at once. Raises Invalid, Conflict."""
    with rls.platform_scope():
        row = Forwarder.objects.select_for_update().get(pk=row.pk)
        _fill(row, fields)
        row.failures, row.retry_at = 0, None
        validation.save(row, f"There is a forwarder {row.name} already.", param="name")
        _record(EventType.FORWARDING_CHANGED, actor, row, fields=sorted(fields))
    return row


def enable_forwarder(actor: ActorRef, row: Forwarder) -> Forwarder:
    """Go on where it stopped. Raises Conflict."""
    return _switch(actor, row, EventType.FORWARDING_ENABLED, enabled=True)


def disable_forwarder(actor: ActorRef, row: Forwarder) -> Forwarder:
    """Send nothing more; its positions stay. Raises Conflict."""
    return _switch(actor, row, EventType.FORWARDING_DISABLED, enabled=False)


def remove_forwarder(actor: ActorRef, row: Forwarder) -> None:
    """Forget it, with its positions."""
    with rls.platform_scope():
        _record(EventType.FORWARDING_REMOVED, actor, row)
        Forwarder.objects.filter(pk=row.pk).delete()


def try_forwarder(actor: ActorRef, row: Forwarder) -> Tried:
    """Send one message now: the event that tells of this trial. Not within a transaction, for it waits for others."""
    with rls.platform_scope():
        event = _record(EventType.FORWARDING_TRIED, actor, row).encoded
        found = Forwarder.objects.get(pk=row.pk)
    try:
        sending.deliver(sending.opened(found), [Item("", None, leaf_hash(event), event)])
    except NotTaken as error:
        return Tried(False, f"It was not taken: {error}")
    return Tried(True, "One message was taken.")


def _switch(actor: ActorRef, row: Forwarder, kind: EventType, *, enabled: bool) -> Forwarder:
    with rls.platform_scope():
        row = Forwarder.objects.select_for_update().get(pk=row.pk)
        if row.enabled == enabled:
            raise Conflict(f"The forwarder is {'enabled' if enabled else 'disabled'} already.", code="state_unchanged")
        row.enabled, row.failures, row.retry_at = enabled, 0, None
        row.save(update_fields=["enabled", "failures", "retry_at"])
        _record(kind, actor, row)
    return row


def _fill(row: Forwarder, fields: dict[str, str]) -> None:
    """Take the fields over, seal what is secret, and see that TLS can be made of it. Raises Invalid."""
    for field, text in fields.items():
        if (column := SEALED.get(field)) is not None:
            _check_header(text, field)
            setattr(row, column, sealed.seal(text.encode(), table=sending.TABLE, row=row.id, column=column))
            if not text:
                setattr(row, column, b"")
        else:
            setattr(row, field, text)
    _check_address(row)
    _check_pairs(row)
    _check_certificates(sending.opened(row))


def _check_address(row: Forwarder) -> None:
    address = row.address
    try:
        parts = urlsplit(address if row.kind == Kind.OCSF_HTTPS else f"//{address}")
        bare = parts.scheme == "https" if row.kind == Kind.OCSF_HTTPS else not (parts.path or parts.query)
        sound = bare and parts.port != 0 and HOST.fullmatch(parts.hostname or "") is not None
    except ValueError:
        sound = False
    if not sound or not re.fullmatch(r"[!-~]+", address) or set(address) & set("@#\\"):
        raise Invalid(WHERE[Kind(row.kind)], param="address")


def _check_header(text: str, field: str) -> None:
    if field == "header_value" and text and not VALUE.fullmatch(text):
        raise Invalid("A header's value is printable ASCII, at most 4096 characters.", param=field)


def _check_pairs(row: Forwarder) -> None:
    if bool(row.client_certificate) != bool(row.client_key_sealed):
        raise Invalid("Give a client certificate together with its key, or neither.", param="client_key")
    if bool(row.header_name) != bool(row.header_value_sealed):
        raise Invalid("Give a header's name together with its value, or neither.", param="header_value")
    if row.header_name and row.kind != Kind.OCSF_HTTPS:
        raise Invalid("Syslog has no headers; it may have a client certificate.", param="header_name")
    known = HEADER.fullmatch(row.header_name) and row.header_name.lower() not in OWN_HEADERS
    if row.header_name and not known:
        raise Invalid("Give the name of a header that may be set, such as Authorization.", param="header_name")


def _check_certificates(found: Destination) -> None:
    """Each for itself, so that the error names the field."""
    bare = Destination(found.kind, found.address, found.ca_certificate)
    for param, given in (("ca_certificate", bare), ("client_certificate", found)):
        try:
            destination.context(given)
        except (ssl.SSLError, ValueError, OSError) as error:
            raise Invalid("This is no certificate in PEM, or its key does not belong to it.", param=param) from error


def _record(kind: EventType, actor: ActorRef, row: Forwarder, **details: Any) -> Event:
    """The event of the system log; the logs of the tenants concerned get the same."""
    facts = {"name": row.name, "kind": row.kind, "destination": _endpoint(row), **details}
    facts["logs"] = "all" if row.tenant_id is None else str(row.tenant_id)
    made = [_event(kind, actor, row, tenant, facts) for tenant in (None, *_tenants(row))]
    for event in made:
        record(event)
    return made[-1] if row.tenant_id is not None else made[0]


def _event(kind: EventType, actor: ActorRef, row: Forwarder, tenant: UUID | None, facts: dict[str, Any]) -> Event:
    return Event(
        type=kind,
        tenant_id=tenant,
        actor=actor,
        resource=Resource("forwarder", str(row.id)),
        request_id=current(),
        details=facts,
    )


def _tenants(row: Forwarder) -> Iterable[UUID]:
    if row.tenant_id is not None:
        return [row.tenant_id]
    return [tenant for tenant in Log.objects.values_list("tenant_id", flat=True) if tenant is not None]


def _endpoint(row: Forwarder) -> str:
    """Host and port: what else an address has may be no business of an auditor's."""
    parts = urlsplit(row.address if row.kind == Kind.OCSF_HTTPS else f"//{row.address}")
    port = parts.port or (443 if row.kind == Kind.OCSF_HTTPS else syslog.PORT)
    return f"{parts.hostname}:{port}"
