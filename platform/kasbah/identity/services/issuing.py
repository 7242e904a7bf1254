"""Issuing and revoking API keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from django.utils import timezone

from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Invalid, NotFound
from kasbah.common.requestid import current
from kasbah.identity.models import ApiKey, Project, Role, Scope, Tenant, User
from kasbah.identity.services import keys
from kasbah.identity.services.actors import Actor, person_behind
from kasbah.identity.services.permissions import Permission, require, require_no_more_than

MOST_LISTED = 20  # keys that a message names


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key's row and its secret, which exists only here."""

    key: ApiKey
    text: str


def create_api_key(
    actor: Actor,
    tenant: Tenant,
    project: Project,
    name: str,
    *,
    scopes: Sequence[str] = (Scope.INFERENCE,),
    role: str = Role.DEVELOPER,
    default_data_class: str = "",
    expires_at: datetime | None = None,
    service_account: bool = False,
) -> IssuedKey:
    """A new key. `role` is what it may do in the management API, never more than the actor, nor later than its maker.

    `service_account`: it stands by itself, whatever becomes of whoever made it; that takes who manages members. What a
    command of the installation makes is always one. Raises NotFound, Forbidden, Invalid.
    """
    require(actor, Permission.KEY_MANAGE, tenant)
    maker = person_behind(actor)
    if service_account:
        require(actor, Permission.MEMBER_MANAGE, tenant)
    text = keys.generate()
    key = ApiKey(
        tenant=tenant,
        project=project,
        name=name,
        prefix=text[: keys.SHOWN],
        pepper_id=keys.pepper().id,
        digest=keys.digest(text),
        scopes=sorted(set(scopes)),
        role=role,
        default_data_class=default_data_class,
        created_by_id=maker,
        service_account=service_account or maker is None,
        expires_at=expires_at,
    )
    _check(key, tenant)
    require_no_more_than(actor, role, tenant)
    with rls.tenant_scope(tenant.id):
        validation.save(key, "This key exists already; try again.")
        record(_event(EventType.KEY_CREATED, actor, key))
    return IssuedKey(key, text)


def revoke_api_key(actor: Actor, key: ApiKey) -> ApiKey:
    """Refuse the key from now on, everywhere within a second. Again changes nothing. Raises NotFound, Forbidden."""
    require(actor, Permission.KEY_MANAGE, key.tenant_id)
    _revoke(actor, key)
    with rls.tenant_scope(key.tenant_id):
        key.refresh_from_db(fields=["revoked_at"])
    return key


class KeyChoice(StrEnum):
    """What becomes of a person's keys when he goes."""

    REVOKE = "revoke"
    KEEP = "keep"


def live_keys(user: User, tenant_id: UUID | None = None) -> list[ApiKey]:
    """The keys that a person made and that are good still, of every tenant or of one, oldest first."""
    with rls.platform_scope():
        keys_of = ApiKey.objects.select_related("tenant").filter(created_by=user, revoked_at=None)
        keys_of = keys_of.exclude(expires_at__lte=timezone.now()).order_by("id")
        return list(keys_of.filter(tenant_id=tenant_id) if tenant_id else keys_of)


def settle_keys(actor: Actor, user: User, choice: KeyChoice | None, tenant_id: UUID | None = None) -> None:
    """Do with the keys of a person who goes what was chosen. Raises Conflict (keys_remain) with a list where nothing
    was.

    A key that stays goes on with what applications do with it; in the management API it can do no more than its maker
    can, and that is nothing, unless it is a service account's.
    """
    live = live_keys(user, tenant_id)
    if live and choice is None:
        listed = ", ".join(f"{key.prefix}... ({key.tenant.slug}{_named(key)})" for key in live[:MOST_LISTED])
        more = f" and {len(live) - MOST_LISTED} more" if len(live) > MOST_LISTED else ""
        raise Conflict(
            f"This person made {len(live)} API keys that are still good: {listed}{more}. Say what becomes of them: "
            "keys=revoke refuses them all from now on, keys=keep leaves them to their applications.",
            param="keys",
            code="keys_remain",
        )
    for key in live if choice == KeyChoice.REVOKE else []:
        _revoke(actor, key)


def _named(key: ApiKey) -> str:
    return ", a service account" if key.service_account else ""


def _revoke(actor: Actor, key: ApiKey) -> None:
    with rls.tenant_scope(key.tenant_id):
        if ApiKey.objects.filter(id=key.id, revoked_at=None).update(revoked_at=timezone.now()):
            record(_event(EventType.KEY_REVOKED, actor, key))


def _check(key: ApiKey, tenant: Tenant) -> None:
    if key.project.tenant_id != tenant.id:
        raise NotFound("There is no such project in this tenant.", param="project")
    if not key.scopes or not set(key.scopes) <= set(Scope.values):
        raise Invalid(f"Name at least one scope of: {', '.join(Scope.values)}.", param="scopes")
    if key.role not in Role.values:
        raise Invalid(f"There is no role {key.role}. Known: {', '.join(Role.values)}.", param="role")
    if key.expires_at is not None and (timezone.is_naive(key.expires_at) or key.expires_at <= timezone.now()):
        raise Invalid("Give a time in the future, with its time zone.", param="expires_at")


def _event(kind: EventType, actor: Actor, key: ApiKey) -> Event:
    return Event(
        type=kind,
        tenant_id=key.tenant_id,
        actor=actor.ref,
        resource=Resource("api_key", str(key.id)),
        request_id=current(),
        details={
            "project": str(key.project_id),
            "scopes": list(key.scopes),
            "role": key.role,
            "service_account": key.service_account,
        },
    )
