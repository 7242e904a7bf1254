"""Reading content back: by a person with the permission for it alone, and never without an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from kasbah.audit.models import Content
from kasbah.audit.services import Event, EventType, Outcome, Resource, record, record_apart
from kasbah.audit.services.content import Altered, Opened, open_record
from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden, NotFound
from kasbah.common.requestid import current
from kasbah.identity.models import Tenant
from kasbah.identity.services import Actor, Permission, require, require_appointed


@dataclass(frozen=True, slots=True)
class Disclosed:
    """What is kept of one request."""

    request_id: str
    data_class: str
    policy: str  # id@version under which it was stored
    parts: tuple[Opened, ...]  # the prompt first


def read_content(actor: Actor, tenant: Tenant, request_id: str) -> Disclosed:
    """The prompt and the answer of a request, with the openings of their commitments. The read is recorded.

    Raises NotFound, Forbidden, and Conflict (content_altered) when what lies there is not what was committed to.
    """
    _may_read(actor, tenant)
    with rls.tenant_scope(tenant.id):
        rows = Content.objects.filter(tenant_id=tenant.id, request_id=request_id).select_related("key")
        found = sorted(rows, key=lambda row: row.part, reverse=True)
        if not found:
            raise NotFound("Nothing is kept of such a request.")
        try:
            parts = tuple(open_record(row) for row in found)
        except Altered as error:
            record_apart(_event(actor, tenant.id, request_id, Outcome.FAILURE, reason="content_altered"))
            raise Conflict(
                f"This content cannot be shown: {error}. Somebody changed the database past the platform; keep it as "
                "it is and look for who did.",
                code="content_altered",
            ) from error
        shown = [part.part for part in parts if part.content]
        record(_event(actor, tenant.id, request_id, Outcome.SUCCESS, shown=shown))
    return Disclosed(request_id, found[0].data_class, found[0].policy, parts)


class ExportReading:
    """What an export asks before it opens content, and has put on record (audit.export.companions.Reading)."""

    def check(self, actor: Actor, tenant_id: UUID) -> None:
        """Raises NotFound, Forbidden."""
        _may_read(actor, tenant_id)

    def told(
        self, actor: Actor, tenant_id: UUID, requests: Sequence[str], parts: Sequence[str], *, altered: bool = False
    ) -> None:
        """In transactions of their own: what was opened stays on record though the export come to nothing."""
        outcome, reason = (Outcome.FAILURE, "content_altered") if altered else (Outcome.SUCCESS, "")
        shown = None if altered else list(parts)
        record_apart(*(_event(actor, tenant_id, one, outcome, reason=reason, shown=shown) for one in requests))


def _may_read(actor: Actor, tenant: Tenant | UUID) -> None:
    require(actor, Permission.CONTENT_READ, tenant)
    if actor.user_id is None:
        raise Forbidden("Content is read by a person who is logged in, not by a key or a program.")
    require_appointed(actor.user_id, tenant.id if isinstance(tenant, Tenant) else tenant)


def _event(
    actor: Actor,
    tenant_id: UUID,
    request_id: str,
    outcome: Outcome,
    *,
    reason: str = "",
    shown: list[str] | None = None,
) -> Event:
    return Event(
        type=EventType.CONTENT_READ,
        tenant_id=tenant_id,
        actor=actor.ref,
        outcome=outcome,
        resource=Resource("request", request_id),
        reason=reason,
        request_id=current(),
        details={"shown": shown} if shown else {},
    )
