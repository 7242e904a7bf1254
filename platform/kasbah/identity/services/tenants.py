"""Tenants, their projects and who belongs to them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.db import models

from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Forbidden, Invalid, NotFound
from kasbah.common.requestid import current
from kasbah.identity.models import Membership, Project, Role, Tenant, User
from kasbah.identity.services.actors import USER, Actor
from kasbah.identity.services.permissions import NO_TENANT, Permission, require, require_no_more_than


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
    """By slug; whether the caller may know of it says `require`. Raises NotFound."""
    with rls.platform_scope():
        tenant = Tenant.objects.filter(slug=slug).first()
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
    """Make `user` a member. Raises NotFound, Forbidden, Invalid, Conflict."""
    require(actor, Permission.MEMBER_MANAGE, tenant)
    _check_role(actor, tenant, user.id, role)
    membership = Membership(tenant=tenant, user=user, role=role)
    with rls.tenant_scope(tenant.id):
        validation.save(membership, "This user is a member already; change the role instead.", param="email")
        record(_member_event(EventType.MEMBER_ADDED, actor, membership))
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
        record(_member_event(EventType.MEMBER_ROLE_CHANGED, actor, membership, before=before))
    return membership


def remove_member(actor: Actor, membership: Membership) -> None:
    """End a membership; the user stays. Raises NotFound, Forbidden, Conflict (the last administrator)."""
    require(actor, Permission.MEMBER_MANAGE, membership.tenant_id)
    with rls.tenant_scope(membership.tenant_id):
        tenant = _lock(membership.tenant_id)
        _check_role(actor, tenant, membership.user_id, _current(membership).role)
        _keep_an_administrator(membership)
        record(_member_event(EventType.MEMBER_REMOVED, actor, membership))
        membership.delete()


def _check_role(actor: Actor, tenant: Tenant, user_id: UUID, role: str) -> None:
    if role not in Role.values:
        raise Invalid(f"There is no role {role}. Known: {', '.join(Role.values)}.", param="role")
    if actor.user_id == user_id:
        raise Forbidden("Nobody changes his own membership; ask another administrator.")
    require_no_more_than(actor, role, tenant)


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
