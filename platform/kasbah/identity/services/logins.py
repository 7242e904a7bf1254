"""When a person proved who he is: what weighs much asks for a login that is not long ago.

A session may be hours old and its screen unlocked. The time of the login stands in the session, set at each login
and never afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from django.contrib.auth.signals import user_logged_in

from kasbah.common.errors import Forbidden
from kasbah.identity.services.actors import COMMAND, Actor

LOGGED_IN_AT = "kasbah.logged_in_at"  # name in the session; seconds since the epoch
FRESH = 600  # seconds


def note_login(*, request: Any = None, **_: Any) -> None:
    """Receiver of Django's signal: whatever way the login took, its session knows its time."""
    if request is not None:
        request.session[LOGGED_IN_AT] = time.time()


def connect() -> None:
    """Note logins from now on."""
    user_logged_in.connect(note_login, dispatch_uid="kasbah.note_login")


def login_time(session: Mapping[str, Any]) -> float:
    """When the session began, in seconds since the epoch; 0 when it does not say."""
    found = session.get(LOGGED_IN_AT)
    return float(found) if isinstance(found, (int, float)) else 0.0


def require_fresh_login(actor: Actor) -> None:
    """Return when `actor` logged in within the last ten minutes. Raises Forbidden.

    Whoever runs commands has proved himself to the machine, which is not asked again.
    """
    if actor.authentication != COMMAND and time.time() - actor.logged_in_at > FRESH:
        raise Forbidden(
            "This takes a login that is at most ten minutes old. Log in again (POST /api/session/ with your e-mail "
            "address and password), then repeat it.",
            code="reauthentication_required",
        )
