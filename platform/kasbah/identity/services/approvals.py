"""What takes two persons, whatever it is: who may answer, and to what exactly. Every such flow asks here.

The second person is a person, logged in just now, who neither asked nor wrote; whoever asked may still ask; nobody
stands behind both (see standing); and he agrees to what he saw, by its digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from kasbah.common.errors import Conflict, Forbidden
from kasbah.identity.services import standing
from kasbah.identity.services.actors import Actor
from kasbah.identity.services.logins import require_fresh_login
from kasbah.identity.services.permissions import Permission, person_may


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What waits for a second person: who asked, with which permission and in which tenant, and who wrote it.

    `asked_by` None: the operator at the machine did. `tenant_id` None: it is the platform's.
    """

    asked_by: UUID | None
    permission: Permission
    tenant_id: UUID | None
    written_by: UUID | None = None

    @property
    def first_persons(self) -> tuple[UUID, ...]:
        """Those whom the second person must not be."""
        return tuple(dict.fromkeys(who for who in (self.asked_by, self.written_by) if who is not None))

    @property
    def lapsed(self) -> bool:
        """Whether whoever asked may no longer: demoted, removed, switched off."""
        return self.asked_by is not None and not person_may(self.asked_by, self.permission, self.tenant_id)


def acting_person(actor: Actor) -> UUID:
    """The person who acts. Raises Forbidden."""
    if actor.user_id is None:
        raise Forbidden(
            "This takes two persons, not a key or a program. The command names them, with --by.", code="person_needed"
        )
    return actor.user_id


def require_second_person(actor: Actor, proposal: Proposal) -> UUID:
    """The person who may answer, to refuse at least. Raises Forbidden."""
    second = acting_person(actor)
    require_fresh_login(actor)
    if second in proposal.first_persons:
        raise Forbidden(
            "Whoever asked for this or wrote it does not review it; ask a second person.", code="second_person"
        )
    return second


def require_approver(actor: Actor, proposal: Proposal) -> dict[str, str]:
    """Facts for the event of an approval: when and by whom the second person's account was made and changed.

    Raises Forbidden (second_person, one_person_behind_both), Conflict (request_lapsed).
    """
    second = require_second_person(actor, proposal)
    if proposal.lapsed:
        raise Conflict(
            "Whoever asked for this may no longer ask for it, so the request has lapsed. Have it asked for anew.",
            code="request_lapsed",
        )
    standing.require_apart(second, proposal.first_persons, proposal.tenant_id)
    return standing.account_facts(second, proposal.tenant_id, "reviewer")


def require_seen(seen: str, digest: str) -> None:
    """Return when what the second person looked at is what there is now. Raises Conflict (changed_since)."""
    if seen != digest:
        raise Conflict(
            "This is no longer what you looked at. Look at it again, and agree to that by its digest.",
            code="changed_since",
        )
