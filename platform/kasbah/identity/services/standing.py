"""Who stands behind whose account: whoever made or changed it lately can act as that person, or chose him.

For a waiting time (KASBAH_REVIEW_WAIT_HOURS) after each change, its maker stands behind the account, and behind the
maker whoever stood behind him at that moment: a chain of accounts is no longer way round than one. After that time, or
once a third person has confirmed the change, the account stands by itself. What a command of the installation did is
the operator's, who can act in every name as it is; it is on record as his, and stands behind nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import Q, QuerySet
from django.utils import timezone

from inference_worker.contract import canonical
from kasbah.audit.services import Event, EventType, Resource, record, rfc3339
from kasbah.common import rls
from kasbah.common.errors import Conflict, Forbidden
from kasbah.common.requestid import current
from kasbah.identity.models import AccountChange, AccountChangeKind, User
from kasbah.identity.services.actors import API_KEY, SYSTEM, Actor, person_behind
from kasbah.identity.services.logins import require_fresh_login
from kasbah.identity.services.permissions import Permission, require

UNKNOWN_HOLDER = UUID(int=0)  # of a key: whoever has it, and that may be anybody
MOST_STEPS = 500  # of one chain; beyond that anybody may stand behind it


def waiting_time() -> timedelta:
    """How long whoever changed an account stands behind it."""
    return timedelta(hours=settings.REVIEW_WAIT_HOURS)


def note_change(actor: Actor, user_id: UUID, kind: AccountChangeKind, tenant_id: UUID | None = None) -> None:
    """Keep that `actor` made or changed the account of another; what one does to his own puts nobody behind him."""
    if actor.user_id == user_id:
        return
    with rls.platform_scope():
        AccountChange.objects.create(
            user_id=user_id,
            tenant_id=tenant_id,
            kind=kind,
            actor_kind=actor.kind,
            actor_id=actor.id,
            changed_by=person_behind(actor),
            changed_at=timezone.now(),
        )


def behind(user_id: UUID, tenant_id: UUID | None) -> frozenset[UUID]:
    """All who can act as this person now, himself among them, as far as `tenant_id` is concerned (None: the platform).

    Steps: 1. of each account that was reached, the changes that no third person confirmed, of the waiting time before
    the moment that counts; 2. their makers, at the moment of that change; 3. so on.
    """
    found: set[UUID] = set()
    looked_at: set[tuple[UUID, datetime]] = set()
    to_do = [(user_id, timezone.now())]
    while to_do:
        person, moment = to_do.pop()
        if (person, moment) in looked_at:
            continue
        if len(looked_at) >= MOST_STEPS:
            return frozenset(found | {UNKNOWN_HOLDER})
        looked_at.add((person, moment))
        found.add(person)
        for change in _lately(person, tenant_id, moment):
            if change.actor_kind == API_KEY:
                found.add(UNKNOWN_HOLDER)
            if change.changed_by is not None:
                to_do.append((change.changed_by, change.changed_at))
    return frozenset(found)


def require_apart(one: UUID, others: Iterable[UUID], tenant_id: UUID | None) -> None:
    """Return when nobody stands behind `one` and any of `others`. Raises Forbidden (code one_person_behind_both)."""
    first = behind(one, tenant_id)
    for other in others:
        second = behind(other, tenant_id)
        if first & second or UNKNOWN_HOLDER in first | second:
            raise Forbidden(
                "One person may stand behind both accounts: within the last "
                f"{settings.REVIEW_WAIT_HOURS} hours an account, its password or its role was made or changed by the "
                "other one, or both by a third, or by an API key. Wait until the time is over, have a third person "
                "confirm the change (POST .../confirm-changes/), or ask somebody else.",
                code="one_person_behind_both",
            )


def require_appointed(user_id: UUID, tenant_id: UUID) -> None:
    """Return when whoever gave a person his role in a tenant lately stands behind neither his account nor the other way
    round, so that it took two. Raises Forbidden (code one_person_behind_both)."""
    own = behind(user_id, None)
    for change in _lately(user_id, tenant_id, timezone.now()):
        if change.tenant_id is None:
            continue
        giver = behind(change.changed_by, None) if change.changed_by is not None else frozenset()
        if own & giver or UNKNOWN_HOLDER in own | giver or change.actor_kind == API_KEY:
            raise Forbidden(
                "One person may stand behind this account and behind whoever gave it its role here: within the last "
                f"{settings.REVIEW_WAIT_HOURS} hours one of them was made or changed by the other one, or both by a "
                "third, or by an API key. Wait until the time is over, or have a third person confirm the change "
                "(POST .../confirm-changes/).",
                code="one_person_behind_both",
            )


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """The changes of an account that still count, newest first, and the digest that a confirmation is bound to."""

    changes: list[AccountChange]
    digest: str


def unconfirmed(user_id: UUID, tenant_id: UUID | None) -> Unconfirmed:
    """What somebody else could confirm: of a tenant its roles, without one what is of the account itself."""
    with rls.platform_scope():
        rows = list(_open(user_id).filter(tenant_id=tenant_id).order_by("-changed_at", "-id"))
    document = {"user": str(user_id), "changes": [str(row.id) for row in rows]}
    return Unconfirmed(rows, hashlib.sha256(canonical.dumps(document)).hexdigest())


def confirm_changes(actor: Actor, user: User, tenant_id: UUID | None, digest: str) -> Unconfirmed:
    """Say, as a third person or as the operator at the machine, that the account is its person's own.

    `digest` is of what was looked at. Raises NotFound, Forbidden, Conflict (changed_since).
    """
    require(actor, Permission.MEMBER_MANAGE if tenant_id else Permission.USER_MANAGE, tenant_id)
    with rls.platform_scope():
        list(User.objects.select_for_update(no_key=True).filter(pk=user.pk))  # one confirmation at a time
        found = unconfirmed(user.id, tenant_id)
        if digest != found.digest:
            raise Conflict(
                "The changes of this account are no longer those that you looked at. Look again, then confirm those.",
                code="changed_since",
            )
        if not found.changes:
            raise Conflict("There is nothing to confirm.")
        if actor.kind != SYSTEM:
            _require_third(actor, user.id, found.changes, tenant_id)
        for row in found.changes:
            row.confirmed_by, row.confirmed_at = f"{actor.kind}:{actor.id}", timezone.now()
            row.save(update_fields=["confirmed_by", "confirmed_at"])
        record(
            Event(
                type=EventType.ACCOUNT_CONFIRMED,
                tenant_id=tenant_id,
                actor=actor.ref,
                resource=Resource("user", str(user.id), found.digest),
                request_id=current(),
                details={
                    "changes": [f"{row.kind} by {maker(row)} at {rfc3339(row.changed_at)}" for row in found.changes]
                },
            )
        )
    return found


def _require_third(actor: Actor, user_id: UUID, changes: list[AccountChange], tenant_id: UUID | None) -> None:
    if actor.user_id is None:
        raise Forbidden("This takes a person who is logged in, not a key or a program.", code="person_needed")
    require_fresh_login(actor)
    makers = {row.changed_by for row in changes if row.changed_by is not None}
    known = behind(user_id, tenant_id) - {UNKNOWN_HOLDER}  # who has the key is what he vouches for
    mine = behind(actor.user_id, tenant_id)
    if UNKNOWN_HOLDER in mine or mine & (known | makers):
        raise Forbidden(
            "Whoever made or changed an account, or whose account it is, does not confirm it, nor does anybody behind "
            "whom one of them stands; ask a third person.",
            code="third_person",
        )


def account_facts(user_id: UUID, tenant_id: UUID | None, prefix: str) -> dict[str, str]:
    """When and by whom an account was made and last changed, for an event: `<prefix>_account_made_at` and so on."""
    with rls.platform_scope():
        rows = AccountChange.objects.filter(_within(tenant_id), user_id=user_id).order_by("-changed_at", "-id")
        made = rows.filter(kind=AccountChangeKind.CREATED).first()
        last = rows.first()
        since = User.objects.values_list("created_at", flat=True).get(pk=user_id)
    facts = {
        f"{prefix}_account_made_at": rfc3339(made.changed_at if made else since),
        f"{prefix}_account_made_by": maker(made) if made else "unknown",
    }
    if last is not None and last != made:
        facts[f"{prefix}_account_changed_at"] = rfc3339(last.changed_at)
        facts[f"{prefix}_account_changed_by"] = maker(last)
        facts[f"{prefix}_account_change"] = last.kind
    return facts


def maker(change: AccountChange) -> str:
    """Who made a change, as an event names him: user:ID, api_key:ID, system:command:NAME."""
    return f"{change.actor_kind}:{change.actor_id}"


def _lately(user_id: UUID, tenant_id: UUID | None, moment: datetime) -> list[AccountChange]:
    """Unconfirmed changes by others than the installation itself, of the waiting time before `moment`."""
    with rls.platform_scope():
        return list(
            AccountChange.objects.filter(
                _within(tenant_id),
                user_id=user_id,
                confirmed_at=None,
                changed_at__lte=moment,
                changed_at__gt=moment - waiting_time(),
            )
            .exclude(actor_kind=SYSTEM)
            .order_by("-changed_at")[: MOST_STEPS + 1]
        )


def _open(user_id: UUID) -> QuerySet[AccountChange]:
    since = timezone.now() - waiting_time()
    rows = AccountChange.objects.filter(user_id=user_id, confirmed_at=None, changed_at__gt=since)
    return rows.exclude(actor_kind=SYSTEM)


def _within(tenant_id: UUID | None) -> Q:
    """Changes of the account itself, and those of a role in the tenant that it is about."""
    return Q(tenant_id=None) | Q(tenant_id=tenant_id) if tenant_id else Q(tenant_id=None)
