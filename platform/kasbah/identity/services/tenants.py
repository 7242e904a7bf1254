"""Tenants, their projects and who belongs to them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import models

from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound
from kasbah.common.references import by_reference
from kasbah.common.requestid import current
from kasbah.identity.models import AccountChangeKind, Membership, Project, Role, Tenant, User
from kasbah.identity.services.actors import USER, Actor, person_behind
from kasbah.identity.services.issuing import KeyChoice, settle_keys
from kasbah.identity.services.permissions import NO_TENANT, Permission, require, require_no_more_than
from kasbah.identity.services.standing import account_facts, note_change


class VisibleTenants(models.QuerySet[Tenant]):
    """Tenants that one actor may see. Fetched for the platform: no single tenant's scope holds them all."""

    def _fetch_all(self) -> None:
        with rls.platform_scope():
            super()._fetch_all()


def visible_tenants(actor: Actor) -> models.QuerySet[Tenant]:
    """All for a platform administrator; else those he is a member of, or the key's own."""
    tenants = VisibleTenants(Tenant)
    if actor.is_platform_admin:
        return tenants
    if actor.kind == USER:
        return tenants.filter(memberships__user_id=actor.id)
    return tenants.filter(id__in=[actor.tenant_id] if actor.tenant_id else [])


def find_tenant(slug: str) -> Tenant:
    """By slug or id; whether the caller may know of it says `require`. Raises NotFound."""
    with rls.platform_scope():
        tenant: Tenant | None = by_reference(Tenant.objects.all(), slug, "slug")
    if tenant is None:
        raise NotFound(NO_TENANT)
    return tenant


def memberships(actor: Actor) -> list[dict[str, str]]:
    """The actor's tenants: slug, name, role."""
    if actor.kind != USER:
        return [{"tenant": t.slug, "name": t.name, "role": actor.role} for t in visible_tenants(actor) if actor.role]
    with rls.platform_scope():
        found = Membership.objects.filter(user_id=actor.id).select_related("tenant").order_by("tenant__slug")
        return [{"tenant": m.tenant.slug, "name": m.tenant.name, "role": m.role} for m in found]


def create_tenant(actor: Actor, slug: str, name: str, default_data_class: str = "") -> Tenant:
    """A new tenant. Raises Forbidden, Invalid, Conflict."""
    require(actor, Permission.TENANT_MANAGE, None)
    tenant = Tenant(slug=slug, name=name, default_data_class=default_data_class)
    with rls.platform_scope():
        validation.save(tenant, f"There is a tenant {slug} already.", param="slug")
        details = {"default_data_class": default_data_class}
        record(_event(EventType.TENANT_CREATED, actor, tenant.id, Resource("tenant", str(tenant.id)), **details))
    return tenant


def update_tenant(
    actor: Actor,
    tenant: Tenant,
    *,
    name: str | None = None,
    active: bool | None = None,
    default_data_class: str | None = None,
) -> Tenant:
    """Rename it, change the data class of requests that name none (nor their key and project), or switch it off,
    which refuses its keys within a second. Raises Forbidden, Invalid."""
    require(actor, Permission.TENANT_MANAGE, tenant)
    with rls.tenant_scope(tenant.id):
        changed = _assign(tenant, name=name, active=active, default_data_class=default_data_class)
        validation.save(tenant, "There is such a tenant already.")
        details: dict[str, Any] = {
            "fields": changed,
            "active": tenant.active,
            "default_data_class": tenant.default_data_class,
        }
        resource = Resource("tenant", str(tenant.id))
        record(_event(EventType.TENANT_CHANGED, actor, tenant.id, resource, **details))
    return tenant


def create_project(actor: Actor, tenant: Tenant, slug: str, name: str, default_data_class: str = "") -> Project:
    """A new project. Raises NotFound, Forbidden, Invalid, Conflict."""
    require(actor, Permission.PROJECT_MANAGE, tenant)
    project = Project(tenant=tenant, slug=slug, name=name, default_data_class=default_data_class)
    with rls.tenant_scope(tenant.id):
        validation.save(project, f"There is a project {slug} in this tenant already.", param="slug")
        resource = Resource("project", str(project.id))
        details = {"default_data_class": default_data_class}
        record(_event(EventType.PROJECT_CREATED, actor, tenant.id, resource, **details))
    return project


def update_project(
    actor: Actor, project: Project, *, name: str | None = None, default_data_class: str | None = None
) -> Project:
    """Rename it or change the data class of requests that name none. Raises NotFound, Forbidden, Invalid."""
    require(actor, Permission.PROJECT_MANAGE, project.tenant_id)
    with rls.tenant_scope(project.tenant_id):
        changed = _assign(project, name=name, default_data_class=default_data_class)
        validation.save(project, "There is such a project already.")
        details: dict[str, Any] = {"fields": changed, "default_data_class": project.default_data_class}
        resource = Resource("project", str(project.id))
        record(_event(EventType.PROJECT_CHANGED, actor, project.tenant_id, resource, **details))
    return project


def add_member(actor: Actor, tenant: Tenant, user: User, role: str) -> Membership:
    """Make `user` a member at once, as a command of the installation does; others invite (see invitations).

    Raises NotFound, Forbidden, Invalid, Conflict.
    """
    require(actor, Permission.MEMBER_MANAGE, tenant)
    _check_role(actor, tenant, user.id, role)
    return enter_member(actor, tenant, user, role, by=actor)


def enter_member(granted_by: Actor, tenant: Tenant, user: User, role: str, *, by: Actor) -> Membership:
    """Make `user` a member once it is settled that he may be: `granted_by` gives the role, `by` does it.

    The tenant's log says when and by whom his account was made. Raises Conflict.
    """
    membership = Membership(tenant=tenant, user=user, role=role)
    with rls.tenant_scope(tenant.id):
        validation.save(membership, "This user is a member already; change the role instead.", param="email")
        note_change(granted_by, user.id, AccountChangeKind.ROLE, tenant.id)
        facts = {"granted_by": f"{granted_by.kind}:{granted_by.id}", **account_facts(user.id, None, "member")}
        record(_member_event(EventType.MEMBER_ADDED, by, membership, **facts))
    return membership


def change_role(actor: Actor, membership: Membership, role: str) -> Membership:
    """Give a member another role. Raises NotFound, Forbidden, Invalid, Conflict (the last administrator)."""
    require(actor, Permission.MEMBER_MANAGE, membership.tenant_id)
    with rls.tenant_scope(membership.tenant_id):
        tenant = _lock(membership.tenant_id)
        _check_role(actor, tenant, membership.user_id, role)
        before = _current(membership).role
        if role != Role.TENANT_ADMIN:
            _keep_an_administrator(membership)
        membership.role = role
        validation.save(membership, "This user is a member already.")
        note_change(actor, membership.user_id, AccountChangeKind.ROLE, membership.tenant_id)
        record(_member_event(EventType.MEMBER_ROLE_CHANGED, actor, membership, before=before))
    return membership


def remove_member(actor: Actor, membership: Membership, keys: KeyChoice | None = None) -> None:
    """End a membership; the user stays. `keys`: what becomes of those that he made in this tenant.

    Raises NotFound, Forbidden, Conflict (the last administrator; keys_remain).
    """
    require(actor, Permission.MEMBER_MANAGE, membership.tenant_id)
    with rls.tenant_scope(membership.tenant_id):
        tenant = _lock(membership.tenant_id)
        _check_role(actor, tenant, membership.user_id, _current(membership).role)
        _keep_an_administrator(membership)
        settle_keys(actor, membership.user, keys, tenant.id)
        record(_member_event(EventType.MEMBER_REMOVED, actor, membership))
        membership.delete()


def require_role(actor: Actor, tenant: Tenant, role: str) -> None:
    """Return when `actor` may hand out `role`. Raises Forbidden, Invalid."""
    if role not in Role.values:
        raise Invalid(f"There is no role {role}. Known: {', '.join(Role.values)}.", param="role")
    require_no_more_than(actor, role, tenant)


def refuse_own(actor: Actor, user_id: UUID) -> None:
    """Return when the membership is another's, also where a key that somebody made acts for him. Raises Forbidden."""
    if person_behind(actor) == user_id:
        raise Forbidden("Nobody changes his own membership; ask another administrator.")


def _check_role(actor: Actor, tenant: Tenant, user_id: UUID, role: str) -> None:
    refuse_own(actor, user_id)
    require_role(actor, tenant, role)


def _lock(tenant_id: UUID) -> Tenant:
    # One change of members at a time: else two administrators could remove each other at once. NO KEY: requests,
    # whose rows refer to the tenant, do not wait.
    return Tenant.objects.select_for_update(no_key=True).get(id=tenant_id)


def _current(membership: Membership) -> Membership:
    found = Membership.objects.filter(id=membership.id).first()
    if found is None:
        raise NotFound("This membership has ended.")
    return found


def _keep_an_administrator(membership: Membership) -> None:
    admins = Membership.objects.filter(
        tenant_id=membership.tenant_id, role=Role.TENANT_ADMIN, user__is_active=True
    ).values_list("id", flat=True)
    if set(admins) == {membership.id}:
        raise Conflict(
            "This is the tenant's last administrator. Make another member tenant_admin first.",
            code="last_administrator",
        )


def _assign(instance: models.Model, **fields: Any) -> list[str]:
    given = {name: value for name, value in fields.items() if value is not None}
    for name, value in given.items():
        setattr(instance, name, value)
    return sorted(given)


def _member_event(kind: EventType, actor: Actor, membership: Membership, **details: str) -> Event:
    facts = {"user": str(membership.user_id), "role": membership.role, **details}
    return _event(kind, actor, membership.tenant_id, Resource("membership", str(membership.id)), **facts)


def _event(kind: EventType, actor: Actor, tenant_id: UUID, resource: Resource, **details: Any) -> Event:
    return Event(
        type=kind, tenant_id=tenant_id, actor=actor.ref, resource=resource, request_id=current(), details=details
    )
