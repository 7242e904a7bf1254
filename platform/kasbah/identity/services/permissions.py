"""The one table of who may do what, and the one function that asks it."""

from __future__ import annotations

from enum import StrEnum
from uuid import UUID

from kasbah.common import rls
from kasbah.common.errors import Forbidden, NotFound
from kasbah.identity.models import Membership, Role, Tenant, User
from kasbah.identity.services.actors import API_KEY, SYSTEM, USER, Actor, actor_of_user

NO_TENANT = "There is no such tenant, or you may not see it."


class Permission(StrEnum):
    """subject.verb. Those of the platform's own objects are asked for without a tenant."""

    TENANT_READ = "tenant.read"
    TENANT_MANAGE = "tenant.manage"
    PROJECT_READ = "project.read"
    PROJECT_MANAGE = "project.manage"
    MEMBER_READ = "member.read"
    MEMBER_MANAGE = "member.manage"
    USER_READ = "user.read"
    USER_MANAGE = "user.manage"
    KEY_READ = "key.read"
    KEY_MANAGE = "key.manage"
    MODEL_READ = "model.read"
    MODEL_MANAGE = "model.manage"
    SITE_READ = "site.read"
    SITE_MANAGE = "site.manage"
    POLICY_READ = "policy.read"
    POLICY_MANAGE = "policy.manage"
    POLICY_APPROVE = "policy.approve"
    BASELINE_READ = "baseline.read"
    BASELINE_MANAGE = "baseline.manage"
    BASELINE_APPROVE = "baseline.approve"
    DEPLOYMENT_READ = "deployment.read"
    DEPLOYMENT_MANAGE = "deployment.manage"
    GRANT_READ = "grant.read"
    GRANT_MANAGE = "grant.manage"
    WORKER_READ = "worker.read"
    WORKER_MANAGE = "worker.manage"
    JOB_READ = "job.read"
    RECEIPT_READ = "receipt.read"
    USAGE_READ = "usage.read"
    LIMIT_READ = "limit.read"
    LIMIT_MANAGE = "limit.manage"
    AUDIT_READ = "audit.read"
    FORWARDER_READ = "forwarder.read"
    FORWARDER_MANAGE = "forwarder.manage"
    CONTENT_READ = "content.read"
    HOLD_READ = "hold.read"
    HOLD_MANAGE = "hold.manage"
    HOLD_RELEASE = "hold.release"
    ERASURE_READ = "erasure.read"
    ERASURE_MANAGE = "erasure.manage"
    ERASURE_APPROVE = "erasure.approve"


P = Permission
# What every member sees: how his tenant is set up, and which models there are and where.
EVERYONE = frozenset(
    {P.TENANT_READ, P.PROJECT_READ, P.MODEL_READ, P.DEPLOYMENT_READ, P.SITE_READ, P.POLICY_READ, P.GRANT_READ}
    | {P.LIMIT_READ, P.RECEIPT_READ}
)
ROLES: dict[str, frozenset[Permission]] = {
    Role.TENANT_ADMIN: EVERYONE
    | {P.PROJECT_MANAGE, P.MEMBER_READ, P.MEMBER_MANAGE, P.KEY_READ, P.KEY_MANAGE, P.POLICY_MANAGE, P.POLICY_APPROVE}
    | {P.JOB_READ, P.USAGE_READ, P.LIMIT_MANAGE, P.AUDIT_READ, P.WORKER_READ}
    | {P.HOLD_READ, P.HOLD_MANAGE, P.HOLD_RELEASE}
    | {P.ERASURE_READ, P.ERASURE_MANAGE, P.ERASURE_APPROVE},
    Role.DEVELOPER: EVERYONE | {P.KEY_READ, P.KEY_MANAGE, P.JOB_READ, P.USAGE_READ},
    Role.OPERATOR: EVERYONE | {P.KEY_READ, P.JOB_READ, P.USAGE_READ, P.WORKER_READ},
    Role.AUDITOR: EVERYONE
    | {P.MEMBER_READ, P.KEY_READ, P.JOB_READ, P.USAGE_READ, P.WORKER_READ, P.AUDIT_READ}
    | {P.HOLD_READ, P.CONTENT_READ, P.ERASURE_READ},
}
# A platform administrator manages everything, but reads a tenant's audit log and its content only as its auditor.
PLATFORM_ADMIN_WITHIN_A_TENANT = frozenset(Permission) - {P.AUDIT_READ, P.CONTENT_READ}
# Of the platform's own objects a member reads the catalogue; the rest is for platform administrators.
CATALOGUE = frozenset({P.MODEL_READ, P.DEPLOYMENT_READ, P.SITE_READ, P.BASELINE_READ})
# No key does this, whatever its role: it takes somebody who can be asked afterwards.
PEOPLE_ONLY = frozenset(
    {P.POLICY_APPROVE, P.BASELINE_APPROVE, P.CONTENT_READ, P.HOLD_RELEASE, P.ERASURE_MANAGE, P.ERASURE_APPROVE}
)


def require(actor: Actor, permission: Permission, tenant: Tenant | UUID | None) -> None:
    """Return when `actor` may; deny by default. `tenant` None: an object of the platform.

    Raises NotFound when he has nothing to do with the tenant (so its existence is not told), else Forbidden.
    """
    allowed = _allowed(actor, tenant.id if isinstance(tenant, Tenant) else tenant)
    if permission not in allowed:
        raise Forbidden(f"This needs the permission {permission}, which you do not have here.")


def person_may(user_id: UUID, permission: Permission, tenant_id: UUID | None) -> bool:
    """Whether a person may now, whoever asks; nobody may whose account is switched off or gone."""
    return permission in _allowed_to_person(user_id, tenant_id)


def _allowed_to_person(user_id: UUID, tenant_id: UUID | None) -> frozenset[Permission]:
    found = User.objects.filter(pk=user_id, is_active=True).first()
    try:
        return _allowed(actor_of_user(found), tenant_id) if found is not None else frozenset()
    except NotFound:
        return frozenset()


def _allowed(actor: Actor, tenant_id: UUID | None) -> frozenset[Permission]:
    allowed = _allowed_by_role(actor, tenant_id)
    if actor.kind != API_KEY or actor.maker is None:
        return allowed
    # A person's key is that person at most: it goes down with him, and with his account it can do nothing.
    return allowed & _allowed_to_person(actor.maker, tenant_id)


def _allowed_by_role(actor: Actor, tenant_id: UUID | None) -> frozenset[Permission]:
    if actor.kind == SYSTEM:
        return frozenset(Permission)
    if tenant_id is None:
        return _allowed_on_platform(actor)
    role = _role(actor, tenant_id)
    if not role and not actor.is_platform_admin:
        raise NotFound(NO_TENANT)
    within = PLATFORM_ADMIN_WITHIN_A_TENANT if actor.is_platform_admin else frozenset()
    allowed = within | ROLES.get(role, frozenset())
    return allowed - PEOPLE_ONLY if actor.kind == API_KEY else allowed


def _allowed_on_platform(actor: Actor) -> frozenset[Permission]:
    if actor.is_platform_admin:
        return frozenset(Permission)
    if actor.kind == USER:
        with rls.platform_scope():
            known = Membership.objects.filter(user_id=actor.id, tenant__active=True).exists()
        return CATALOGUE if known else frozenset()
    return CATALOGUE if actor.role else frozenset()


def _role(actor: Actor, tenant_id: UUID) -> str:
    if actor.kind != USER:
        return actor.role if actor.tenant_id == tenant_id else ""
    with rls.platform_scope():
        found = Membership.objects.filter(user_id=actor.id, tenant_id=tenant_id).values_list("role", flat=True).first()
    return found or ""


def require_no_more_than(actor: Actor, role: str, tenant: Tenant) -> None:
    """Return when `actor` may himself do all that `role` may in `tenant`: nobody gives away what he lacks."""
    allowed = _allowed(actor, tenant.id)
    if not actor.is_platform_admin and not ROLES[role] - PEOPLE_ONLY <= allowed:
        raise Forbidden(f"You may not hand out the role {role}: it may do more than you.")
