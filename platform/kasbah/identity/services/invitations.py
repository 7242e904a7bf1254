"""Members come by invitation: an address is invited without looking whether it has an account, and its person agrees.

So whoever manages members learns nothing of people elsewhere, and nobody is made a member without his knowing.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.utils import timezone

from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound
from kasbah.common.isolation import Isolation
from kasbah.common.requestid import current
from kasbah.identity.models import ApiKey, Invitation, InvitationState, Membership, Tenant, User
from kasbah.identity.services.actors import API_KEY, USER, Actor, actor_of_user, system
from kasbah.identity.services.permissions import Permission, require, require_no_more_than
from kasbah.identity.services.tenants import enter_member, refuse_own, require_role

LASTS = timedelta(days=7)
MOST_OPEN = 500  # of one tenant
logger = logging.getLogger(__name__)
isolation = Isolation(logger)
LAPSED = "This invitation has lapsed: whoever made it may no longer add members. Ask for another one."


def invite(actor: Actor, tenant: Tenant, email: str, role: str) -> Invitation:
    """Invite an address; what comes of it is the same whether anybody has it or not.

    Raises NotFound, Forbidden, Invalid, Conflict.
    """
    require(actor, Permission.MEMBER_MANAGE, tenant)
    require_role(actor, tenant, role)
    address = email.strip().lower()
    try:
        validate_email(address)
    except ValidationError as error:
        raise Invalid("Give an e-mail address.", param="email") from error
    with rls.tenant_scope(tenant.id):
        Tenant.objects.select_for_update(no_key=True).get(id=tenant.id)
        if Membership.objects.filter(tenant=tenant, user__email=address).exists():
            raise Conflict("This user is a member already; change the role instead.", param="email")
        waiting = Invitation.objects.filter(tenant=tenant, state=InvitationState.OPEN)
        if waiting.count() >= MOST_OPEN:
            raise Conflict(f"{MOST_OPEN} invitations are open; withdraw some, or wait until they expire.")
        for due in waiting.filter(email=address, expires_at__lte=timezone.now()):
            _end(system("invitations"), due, InvitationState.EXPIRED)
        made = Invitation(
            tenant=tenant,
            email=address,
            role=role,
            actor_kind=actor.kind,
            actor_id=actor.id,
            expires_at=timezone.now() + LASTS,
        )
        validation.save(made, "This address is invited already; withdraw that invitation first.", param="email")
        record(_event(EventType.MEMBER_INVITED, actor, made))
    return made


def withdraw_invitation(actor: Actor, invitation: Invitation) -> Invitation:
    """Take one back that nobody has accepted. Raises NotFound, Forbidden, Conflict."""
    require(actor, Permission.MEMBER_MANAGE, invitation.tenant_id)
    with rls.tenant_scope(invitation.tenant_id):
        found = Invitation.objects.select_for_update().get(pk=invitation.pk)
        if found.state != InvitationState.OPEN:
            raise Conflict(f"This invitation is {found.state}; there is nothing to withdraw.")
        _end(actor, found, InvitationState.WITHDRAWN)
    return found


def invitations_of(user: User) -> list[Invitation]:
    """What a person is invited to and may accept, of every tenant."""
    with rls.platform_scope():
        found = Invitation.objects.select_related("tenant").filter(email=user.email, state=InvitationState.OPEN)
        return list(found.filter(expires_at__gt=timezone.now(), tenant__active=True).order_by("id"))


def accept_invitation(actor: Actor, user: User, invitation_id: UUID) -> tuple[Tenant, str]:
    """Become a member, as whoever is invited: of which tenant, and his role. Raises NotFound, Forbidden, Conflict."""
    if actor.user_id != user.id:
        raise Forbidden("A person accepts his own invitation, logged in.", code="person_needed")
    with rls.platform_scope():
        mine = Invitation.objects.filter(pk=invitation_id, email=user.email).first()
    if mine is None:
        raise NotFound("There is no such invitation.")
    with rls.tenant_scope(mine.tenant_id):
        found = Invitation.objects.select_for_update().select_related("tenant").get(pk=mine.pk)
        if found.state != InvitationState.OPEN or found.expires_at <= timezone.now():
            raise Conflict("This invitation is no longer open; ask for another one.")
        if not found.tenant.active:
            raise NotFound("There is no such invitation.")
        inviter = _inviter(found)
        refuse_own(inviter, user.id)
        _require_still(inviter, found)
        _write(found, InvitationState.ACCEPTED)
        enter_member(inviter, found.tenant, user, found.role, by=actor)
    return found.tenant, found.role


def expire_due() -> int:
    """End the invitations that nobody accepted in time, and those of who may no longer invite; answers how many."""
    ended = 0
    with rls.platform_scope():
        waiting = list(
            Invitation.objects.filter(state=InvitationState.OPEN).order_by("id").values_list("id", flat=True)
        )
    for ident in waiting:
        with isolation.apart(f"Invitation {ident}"), rls.platform_scope():
            rows = Invitation.objects.select_for_update(skip_locked=True, of=("self",)).select_related("tenant")
            row = rows.filter(pk=ident, state=InvitationState.OPEN).first()
            if row is not None and (row.expires_at <= timezone.now() or not _may_still(row)):
                _end(system("housekeeping"), row, InvitationState.EXPIRED)
                ended += 1
    return ended


def _inviter(invitation: Invitation) -> Actor:
    """Whoever invited, with what he may now. Raises Conflict when he is no longer there."""
    if invitation.actor_kind == USER:
        person = User.objects.filter(pk=invitation.actor_id, is_active=True).first()
        if person is None:
            raise Conflict(LAPSED, code="request_lapsed")
        return actor_of_user(person)
    if invitation.actor_kind == API_KEY:
        key = ApiKey.objects.filter(pk=invitation.actor_id, revoked_at=None).exclude(expires_at__lte=timezone.now())
        found = key.first()
        if found is None:
            raise Conflict(LAPSED, code="request_lapsed")
        maker = None if found.service_account else found.created_by_id
        return Actor(API_KEY, str(found.id), "api_key", role=found.role, tenant_id=found.tenant_id, maker=maker)
    return system(invitation.actor_id, "command")


def _require_still(inviter: Actor, invitation: Invitation) -> None:
    """Return when whoever invited could invite so now. Raises Conflict (request_lapsed)."""
    try:
        require(inviter, Permission.MEMBER_MANAGE, invitation.tenant_id)
        require_no_more_than(inviter, invitation.role, invitation.tenant)
    except (Forbidden, NotFound) as error:
        raise Conflict(LAPSED, code="request_lapsed") from error


def _may_still(invitation: Invitation) -> bool:
    try:
        _require_still(_inviter(invitation), invitation)
    except Conflict:
        return False
    return True


def _end(actor: Actor, invitation: Invitation, state: InvitationState) -> None:
    _write(invitation, state)
    withdrawn = state == InvitationState.WITHDRAWN
    kind = EventType.INVITATION_WITHDRAWN if withdrawn else EventType.INVITATION_EXPIRED
    record(_event(kind, actor, invitation))


def _write(invitation: Invitation, state: InvitationState) -> None:
    invitation.state, invitation.answered_at = state, timezone.now()
    invitation.save(update_fields=["state", "answered_at"])


def _event(kind: EventType, actor: Actor, invitation: Invitation) -> Event:
    # The address is a person's, and stays in the row.
    return Event(
        type=kind,
        tenant_id=invitation.tenant_id,
        actor=actor.ref,
        resource=Resource("invitation", str(invitation.id)),
        request_id=current(),
        details={"role": invitation.role},
    )
