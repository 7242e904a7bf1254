"""What other apps put into the exports of the audit log: content's readers, a person's keys, a dossier's documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

import msgspec

from inference_worker.contract import canonical

Facts = dict[str, Any]


def connect() -> None:
    """Make exports know them."""
    from kasbah.audit.services.exports import companions
    from kasbah.residency.services.disclosure import ExportReading

    companions.reading = ExportReading()
    companions.keys_of = _keys_of
    companions.documents[:] = [_receipts, _policies, _models, _approvals]


def _keys_of(tenant_id: UUID, person: UUID) -> Iterable[str]:
    from kasbah.identity.models import ApiKey

    keys = ApiKey.objects.filter(tenant_id=tenant_id, created_by_id=person)
    return [str(key) for key in keys.values_list("id", flat=True)]


def _receipts(tenant_id: UUID | None, events: Sequence[Facts]) -> Iterator[tuple[str, bytes]]:
    """The worker's receipt and the ticket that it answers, with the keys that check them (docs/auditor/receipts.md)."""
    from kasbah.identity.services import system
    from kasbah.serving.services.receipts import find_receipt

    if tenant_id is None:
        return
    for request in _each(events, lambda event: event.get("request_id")):
        found = find_receipt(system("export"), request, tenant_id=tenant_id)
        if found is not None:
            yield f"receipt-{request}.json", msgspec.json.encode(found, order="sorted")


def _policies(tenant_id: UUID | None, events: Sequence[Facts]) -> Iterator[tuple[str, bytes]]:
    """The very version of the policy that decided."""
    from kasbah.residency.models import Policy

    if tenant_id is None:
        return
    for version in _each(events, lambda event: event.get("policy", {}).get("version")):
        found = Policy.objects.filter(tenant_id=tenant_id, version=version).first()
        if found is not None:
            said = {"version": found.version, "digest": found.digest, "document": found.document, "state": found.state}
            people = {"created_by": found.created_by_id, "requested_by": found.requested_by_id}
            people["reviewed_by"] = found.reviewed_by_id
            moments = {"created_at": found.created_at, "activated_at": found.activated_at}
            yield f"policy-{found.version}.json", msgspec.json.encode(said | people | moments, order="sorted")


def _models(_tenant_id: UUID | None, events: Sequence[Facts]) -> Iterator[tuple[str, bytes]]:
    """Where the model comes from: its version, its files by digest, who brought it in and who approved it."""
    from kasbah.registry.services import find

    for digest in _each(events, lambda event: event.get("model", {}).get("digest")):
        version = find(digest)
        if version is not None:
            model = version.model
            said = {
                "digest": digest,
                "name": model.name,
                "publisher": model.publisher,
                "licence": model.licence,
                "family": model.family,
                "manifest": version.manifest,
                "stage": version.stage,
                "imported_by": str(version.imported_by_id or ""),
                "approved_by": str(version.approved_by_id or ""),
            }
            yield f"model-{digest}.json", canonical.dumps(said)


def _approvals(_tenant_id: UUID | None, events: Sequence[Facts]) -> Iterator[tuple[str, bytes]]:
    """The events that tell who brought the model in and who approved it, out of the installation's log, with proofs."""
    from kasbah.audit.models import Intake
    from kasbah.audit.services import EventType
    from kasbah.audit.services.exports import first_inclusion
    from kasbah.common import rls

    digests = set(_each(events, lambda event: event.get("model", {}).get("digest")))
    with rls.platform_scope():
        rows = Intake.objects.filter(
            tenant_id=None, type__in=[EventType.MODEL_REGISTERED.value, EventType.MODEL_APPROVED.value]
        ).order_by("id")
        for row in rows if digests else ():
            data = bytes(row.event)
            if _digest_of(data) not in digests:
                continue
            if (proof := first_inclusion(None, row.pk)) is not None:
                yield f"system/{proof.index}.json", data
                yield f"system/{proof.index}.tlog-proof", proof.text().encode()


def _digest_of(event: bytes) -> str:
    """What an event is about; "" of one that was altered, which the check of its own log names."""
    try:
        return str(msgspec.json.decode(event)["resource"]["digest"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""


def _each(events: Sequence[Facts], value: Any) -> list[Any]:
    """What the events name, each once, in order."""
    return list(dict.fromkeys(found for event in events if (found := value(event))))
