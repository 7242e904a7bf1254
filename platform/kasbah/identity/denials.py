"""What the management API and commands refused, for the log: who is unknown, and who may not do what he asked."""

from __future__ import annotations

from typing import Any

from kasbah.audit.services import ActorRef, EventType
from kasbah.audit.services.denials import NOBODY, Denial, denials
from kasbah.common.commands import operator
from kasbah.common.errors import KasbahError

OWN_EVENT = "api/session/"  # failed logins have events of their own


def note(error: KasbahError, context: dict[str, Any]) -> None:
    """Receiver of common.api_errors: an error that is about to be answered."""
    if (command := context.get("command")) is not None:
        if error.status in (401, 403):
            who = ActorRef("system", f"command:{operator()}", "command")
            denials.note(Denial(EventType.AUTHORIZATION_DENIED, f"command {command}", error.code, actor=who), "")
        return
    request, view = context.get("request"), context.get("view")
    if request is None or not _is_denial(error, view):
        return
    match = getattr(request, "resolver_match", None)
    route = str(getattr(match, "route", ""))
    if route == OWN_EVENT and request.method == "POST":
        return
    actor, tenant = getattr(request, "auth", None), getattr(view, "tenant", None)
    kind = EventType.AUTHENTICATION_DENIED if error.status == 401 else EventType.AUTHORIZATION_DENIED
    who = actor.ref if actor is not None else NOBODY
    denial = Denial(kind, f"{request.method} /{route}", error.code, tenant.id if tenant is not None else None, who)
    denials.note(denial, str(request.META.get("REMOTE_ADDR", "")))


def _is_denial(error: KasbahError, view: Any) -> bool:
    """A tenant that the caller may not see is answered like one that does not exist, and is a denial all the same."""
    hidden = error.status == 404 and getattr(view, "tenant", None) is None and "tenant" in getattr(view, "kwargs", {})
    return hidden or error.status in (401, 403)
