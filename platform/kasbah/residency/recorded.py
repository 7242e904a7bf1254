"""What is read of an inference event: all that was asked then, as the gateway recorded it (gateway.admission). Pure."""

from __future__ import annotations

from functools import lru_cache
from uuid import UUID

import msgspec

from kasbah.residency.decision import Question
from kasbah.residency.places import SiteFact
from kasbah.residency.simulation import Past, Unknown

INCOMPLETE = "recorded without all that was asked: by an older version of Kasbah, or as a job in the background"
UNREADABLE = "the event cannot be read"


class _Policy(msgspec.Struct):
    decision: str = ""


class _Model(msgspec.Struct):
    name: str


class _Details(msgspec.Struct):
    """As the gateway writes them (gateway.admission); None: from before it did."""

    class_asked: str | None = None
    at: int | None = None
    places: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    tags_asked: tuple[str, ...] | None = None  # None: the same
    looked_for: tuple[str, ...] = ()
    classified: str = ""  # kinds and counts, as classification.summary writes them
    purpose: str = ""
    project: str = ""
    sites: tuple[str, ...] = ()


class Recorded(msgspec.Struct):
    """What is read of an event."""

    time: str
    type: str
    details: _Details
    policy: _Policy | None = None
    model: _Model | None = None
    reason: str = ""
    request_id: str = ""


_decoder = msgspec.json.Decoder(Recorded)


def recorded(data: bytes) -> Recorded:
    """What is read of an event's bytes. Raises msgspec.DecodeError."""
    return _decoder.decode(data)


def past(tenant_id: UUID, event: Recorded) -> Past | Unknown:
    """The request that an event tells of."""
    details, model, policy = event.details, event.model, event.policy
    data_class, at, places = details.class_asked, details.at, details.places
    if data_class is None or at is None or places is None or model is None or policy is None:
        return Unknown(request_id=event.request_id, reason=INCOMPLETE)
    try:
        question = Question(
            tenant=tenant_id,
            data_class=data_class,
            model=model.name,
            sites=tuple(map(_place, places)),
            tags=details.tags if details.tags_asked is None else details.tags_asked,
            purpose=details.purpose,
            project=details.project,
            at=at,
        )
        sites = tuple(map(_uuid, details.sites)) if policy.decision == "allow" else ()
    except ValueError:
        return Unknown(request_id=event.request_id, reason=UNREADABLE)
    return Past(
        request_id=event.request_id,
        time=event.time,
        question=question,
        sites=sites,
        looked_for=details.looked_for,
        found=_kinds(details.classified),
    )


@lru_cache(maxsize=1_024)
def _place(text: str) -> SiteFact:
    """From `<id> <slug> <jurisdiction>` and, where it lies in one, its zone. Raises ValueError."""
    ident, slug, jurisdiction, *zone = text.split(" ")
    return SiteFact(UUID(ident), slug, jurisdiction, *zone[:1])


@lru_cache(maxsize=1_024)
def _kinds(text: str) -> tuple[str, ...]:
    """From `email 2, iban 1`."""
    return tuple(part.split(" ")[0] for part in text.split(", ") if part)


@lru_cache(maxsize=1_024)
def _uuid(text: str) -> UUID:
    return UUID(text)
