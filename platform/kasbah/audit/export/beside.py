"""What an export brings beside its events: what was erased and is held, opened content, documents of a dossier, and
the events that tell why others are gone."""

from __future__ import annotations

import base64
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.db import connection
from django.db.models import Q

from inference_worker.contract import canonical
from kasbah.audit.content.opening import Altered, Opened, open_record
from kasbah.audit.export.bundle import inclusion
from kasbah.audit.export.companions import companions
from kasbah.audit.export.plan import Run
from kasbah.audit.export.selection import REQUEST
from kasbah.audit.export.work import Work
from kasbah.audit.log.merkle import Node
from kasbah.audit.log.models import Leaf
from kasbah.audit.models import Content, Intake, LegalHold
from kasbah.audit.services.events import rfc3339

if TYPE_CHECKING:
    from kasbah.audit.export.exporting import Choice

Facts = dict[str, Any]
File = tuple[str, Iterable[bytes]]
BATCH = 500  # requests
# As the log tells it: what was erased by an event after the checkpoint is not erased yet. What hangs on a destroyed key
# is erased, whether or not its rest was cleared away already (content.erasure.CLEAR).
ERASED = """
    SELECT leaf.index, content.request_id, content.part, content.at, content.reason, content.event
    FROM (
        SELECT content.event_id, content.request_id, content.part,
            CASE WHEN hung.on_key THEN key.destroyed_at ELSE content.erased_at END AS at,
            CASE WHEN hung.on_key THEN 'key_destroyed' ELSE content.erased_reason END AS reason,
            CASE WHEN hung.on_key THEN key.destroyed_event ELSE content.erased_event END AS event
        FROM audit_content AS content JOIN audit_contentkey AS key ON key.id = content.key_id,
        LATERAL (SELECT key.destroyed_event IS NOT NULL
            AND (content.opening IS NOT NULL OR content.ciphertext IS NOT NULL) AS on_key) AS hung
        WHERE content.tenant_id = %s AND (content.erased_event IS NOT NULL OR hung.on_key)
    ) AS content
    JOIN audit_leaf AS leaf ON leaf.event_id = content.event_id
    JOIN audit_leaf AS erasing ON erasing.event_id = content.event
    WHERE leaf.log_id = %s AND leaf.index >= %s AND leaf.index < %s AND erasing.index < %s
    AND (%s::text[] IS NULL OR content.request_id = ANY(%s::text[]))
    ORDER BY leaf.index, content.part
"""


class Beside:
    """The files of one export. `actor` is an identity.services.Actor, who may open what is to be opened."""

    def __init__(self, choice: Choice, actor: Any, node: Node, work: Work) -> None:
        self._choice, self._plan, self._log = choice, choice.plan, choice.log
        self._actor, self._node, self._work = actor, node, work
        self._starts = [run.start for run in choice.plan.runs]

    def files(self) -> Iterator[File]:
        """Each by its path and in pieces, always in the same order."""
        yield from self._evidence()
        yield "erasures.jsonl", (canonical.dumps(erased) + b"\n" for erased in self._erased())
        yield "holds.json", [canonical.dumps(list(self._holds()))]
        if self._plan.opened:
            yield from self._content()
        if self._plan.selection["kind"] == REQUEST:
            events = [parsed(data) for data in self._work.read()]
            for documents in companions.documents:
                yield from ((f"dossier/{path}", [data]) for path, data in documents(self._log.tenant_id, events))

    def _evidence(self) -> Iterator[File]:
        """Events that tell of what was pruned or erased, and that are not shown themselves, each with its proof."""
        wanted = {gap.event for gap in self._plan.gaps() if gap.event} | {row["event"] for row in self._erased()}
        places = dict(Leaf.objects.filter(log=self._log, event_id__in=wanted).values_list("index", "event_id"))
        for index in sorted(places):
            if not self._shows(index):
                yield f"evidence/{index}.json", [bytes(Intake.objects.get(pk=places[index]).event)]
                yield f"evidence/{index}.tlog-proof", [inclusion(self._plan, index, self._node)]

    def _erased(self) -> Iterator[Facts]:
        """What was erased of the requests that are shown."""
        plan = self._plan
        requests = None if plan.whole else list(self._choice.requests) or None
        given = [self._log.tenant_id, self._log.pk, plan.start, plan.end, plan.signed.size, requests, requests]
        with connection.chunked_cursor() as cursor:
            cursor.execute(ERASED, given)
            while rows := cursor.fetchmany(2_000):
                for index, request, part, at, reason, event in rows:
                    if self._shows(index):
                        erased = {"request_id": request, "part": part, "at": rfc3339(at)}
                        yield erased | {"reason": reason, "event": str(event)}

    def _shows(self, index: int) -> bool:
        at = bisect_right(self._starts, index) - 1
        run: Run | None = self._plan.runs[at] if at >= 0 else None
        return run is not None and index < run.end

    def _holds(self) -> Iterator[Facts]:
        """Legal holds as they were when the checkpoint was signed. Reason and reference, people's words, stay here."""
        if self._log.tenant_id is None:
            return
        holds = LegalHold.objects.filter(tenant_id=self._log.tenant_id, placed_at__lte=self._choice.as_of)
        if not self._plan.whole:
            holds = holds.filter(Q(request_id="") | Q(request_id__in=self._choice.requests))
        for hold in holds.order_by("id"):
            released = hold.released_at is not None and hold.released_at <= self._choice.as_of
            said = {
                "id": str(hold.id),
                "project": str(hold.project_id or ""),
                "data_class": hold.data_class,
                "request": hold.request_id,
                "since": rfc3339(hold.since) if hold.since else "",
                "until": rfc3339(hold.until) if hold.until else "",
                "placed_at": rfc3339(hold.placed_at),
                "released_at": rfc3339(hold.released_at) if released and hold.released_at else "",
            }
            yield {name: value for name, value in said.items() if value}

    def _content(self) -> Iterator[File]:
        """What is kept of the requests; who reads it is on record before anything is opened."""
        erased = {(row["request_id"], row["part"]) for row in self._erased() if row["reason"] != "level_commitment"}
        unopened: list[Facts] = []
        for batch in _batches(self._choice.requests):
            rows = [row for row in self._rows(batch) if (row.request_id, row.part) not in erased]
            self._told(sorted({row.request_id for row in rows}))
            for row in rows:
                try:
                    opened = open_record(row)
                except Altered as error:
                    self._told([row.request_id], altered=True)
                    unopened.append(_unopened(row, f"altered: {error}"))
                    continue
                if opened.opening is None:
                    unopened.append(
                        _unopened(row, f"erased: {opened.erased_reason}")
                    )  # no event under the checkpoint tells it
                else:
                    yield f"content/{row.request_id}.{row.part}.json", [_opened(row, opened)]
        yield "content/unopened.json", [canonical.dumps(unopened)]

    def _rows(self, requests: Sequence[str]) -> list[Content]:
        """Records whose events are shown."""
        if self._log.tenant_id is None:
            return []
        rows = Content.objects.filter(
            tenant_id=self._log.tenant_id, request_id__in=requests, part__in=self._plan.opened
        ).select_related("key")
        found = {row.event_id: row for row in rows}
        places = Leaf.objects.filter(log=self._log, event_id__in=found).order_by("index")
        return [found[event] for event, index in places.values_list("event_id", "index") if self._shows(index)]

    def _told(self, requests: Sequence[str], *, altered: bool = False) -> None:
        tenant: UUID | None = self._log.tenant_id
        if requests and tenant is not None:
            companions.read_by().told(self._actor, tenant, requests, self._plan.opened, altered=altered)


def parsed(data: bytes) -> Facts:
    """An event."""
    value: Facts = json.loads(data)
    return value


def _batches(requests: Sequence[str]) -> Iterator[Sequence[str]]:
    for at in range(0, len(requests), BATCH):
        yield requests[at : at + BATCH]


def _unopened(row: Content, reason: str) -> Facts:
    return {"request_id": row.request_id, "part": row.part, "reason": reason}


def _opened(row: Content, opened: Opened) -> bytes:
    """What verify.py checks; `bytes` is null where the opening alone was kept."""
    content = None if opened.content is None else base64.b64encode(opened.content.encode()).decode()
    return canonical.dumps(
        {
            "request_id": row.request_id,
            "part": row.part,
            "form": row.form,
            "event": str(row.event_id),
            "opening": base64.b64encode(bytes.fromhex(opened.opening or "")).decode(),
            "bytes": content,
        }
    )
