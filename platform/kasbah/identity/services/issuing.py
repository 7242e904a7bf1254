"""Issuing and revoking API keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone

from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls, validation
from kasbah.common.errors import Invalid, NotFound
from kasbah.common.requestid import current
from kasbah.identity.models import ApiKey, Project, Role, Scope, Tenant
from kasbah.identity.services import keys
from kasbah.identity.services.actors import Actor, person_behind
from kasbah.identity.services.permissions import Permission, require, require_no_more_than


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
) -> IssuedKey:
    """A new key. `role` is what it may do in the management API, never more than the actor.

    Raises NotFound, Forbidden, Invalid.
    """
    require(actor, Permission.KEY_MANAGE, tenant)
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
        created_by_id=person_behind(actor),
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
    with rls.tenant_scope(key.tenant_id):
        revoked = ApiKey.objects.filter(id=key.id, revoked_at=None).update(revoked_at=timezone.now())
        if revoked:
            record(_event(EventType.KEY_REVOKED, actor, key))
        key.refresh_from_db(fields=["revoked_at"])
    return key


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
        details={"project": str(key.project_id), "scopes": list(key.scopes), "role": key.role},
    )
