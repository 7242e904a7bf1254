"""Which events of a log somebody asks for: a person's, a model's, one request's. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from kasbah.audit.export.plan import RANGE
from kasbah.audit.services.events import EventType

PERSON, MODEL, REQUEST = "person", "model", "request"
INFERENCE = "inference."


class _Party(msgspec.Struct):
    id: str = ""
    on_behalf_of: str = ""


class _Resource(msgspec.Struct):
    type: str = ""
    id: str = ""
    digest: str = ""


class _Model(msgspec.Struct):
    digest: str = ""


class _Details(msgspec.Struct):
    requests: Any = None


class Seen(msgspec.Struct):
    """What a selection looks at."""

    type: str
    actor: _Party
    resource: _Resource = msgspec.field(default_factory=_Resource)
    model: _Model = msgspec.field(default_factory=_Model)
    details: _Details = msgspec.field(default_factory=_Details)
    request_id: str = ""


_decoder = msgspec.json.Decoder(Seen)


@dataclass(frozen=True, slots=True)
class Selection:
    """`kind` is range, person, model or request; `by` the id or digest."""

    kind: str = RANGE
    by: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """As the manifest says it."""
        return {"kind": self.kind} | ({"by": self.by} if self.by else {})

    @property
    def opens(self) -> bool:
        """Whether content may be opened for it: of one request, or of one person's."""
        return self.kind in (PERSON, REQUEST)

    @property
    def needle(self) -> bytes:
        """What every selected event holds, so that the database need not give the others; empty: there is no such."""
        return self.by.encode() if self.kind == REQUEST else b""


class Chosen:
    """Hears every event of a log in order, and says of each whether it is selected. `keys`: those of the person."""

    def __init__(self, selection: Selection, keys: Iterable[str] = ()) -> None:
        self._selection = selection
        self._ids = {selection.by, *keys}
        self.requests: dict[str, None] = {selection.by: None} if selection.kind == REQUEST else {}
        self._wants = {PERSON: self._persons, MODEL: self._models, REQUEST: self._requests}[selection.kind]

    def wants(self, data: bytes) -> bool:
        """The next event, as its bytes."""
        seen = _decoder.decode(data)
        return self._wants(seen)

    def _persons(self, seen: Seen) -> bool:
        """What the person did, himself or by a key that he made, what was done to either, and his requests."""
        actor, resource = seen.actor, seen.resource
        acts = actor.id in self._ids or actor.on_behalf_of in self._ids
        if acts and seen.type == EventType.KEY_CREATED:
            self._ids.add(resource.id)
        if acts and seen.request_id and seen.type.startswith(INFERENCE):
            self.requests[seen.request_id] = None
        return acts or resource.id in self._ids or self._of_requests(seen)

    def _models(self, seen: Seen) -> bool:
        """What was done to the model, and requests that it was to answer, with how they ended."""
        named = self._selection.by in (seen.model.digest, seen.resource.digest)
        if named and seen.request_id and seen.type == EventType.INFERENCE_INTENT:
            self.requests[seen.request_id] = None
        if seen.type == EventType.INFERENCE_OUTCOME and seen.request_id in self.requests:
            del self.requests[seen.request_id]  # a model may have millions; what is left has no outcome yet
            return True
        return named or (seen.type.startswith(INFERENCE) and seen.request_id in self.requests)

    def _requests(self, seen: Seen) -> bool:
        return (seen.request_id == self._selection.by) or self._of_requests(seen)

    def _of_requests(self, seen: Seen) -> bool:
        """The request itself, or somebody who read what is kept of it, or what erased it."""
        if seen.type.startswith(INFERENCE):
            return seen.request_id in self.requests
        if seen.type == EventType.CONTENT_ERASED and isinstance(seen.details.requests, list):
            return not self.requests.keys().isdisjoint(seen.details.requests)
        return seen.resource.type == "request" and seen.resource.id in self.requests
