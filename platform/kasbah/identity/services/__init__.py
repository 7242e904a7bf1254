"""Who is who, and who may do what."""

from kasbah.identity.services.actors import Actor, actor_of_key, actor_of_user, person_behind, system
from kasbah.identity.services.issuing import IssuedKey, create_api_key, revoke_api_key
from kasbah.identity.services.logins import login_time, require_fresh_login
from kasbah.identity.services.permissions import ROLES, Permission, require
from kasbah.identity.services.principals import Principal, PrincipalCache, authenticate_key, find_principal
from kasbah.identity.services.tenants import (
    add_member,
    change_role,
    create_project,
    create_tenant,
    find_tenant,
    memberships,
    remove_member,
    update_project,
    update_tenant,
    visible_tenants,
)
from kasbah.identity.services.users import create_user, find_user, log_in, log_out, update_user

__all__ = [
    "ROLES",
    "Actor",
    "IssuedKey",
    "Permission",
    "Principal",
    "PrincipalCache",
    "actor_of_key",
    "actor_of_user",
    "add_member",
    "authenticate_key",
    "change_role",
    "create_api_key",
    "create_project",
    "create_tenant",
    "create_user",
    "find_principal",
    "find_tenant",
    "find_user",
    "log_in",
    "log_out",
    "login_time",
    "memberships",
    "person_behind",
    "remove_member",
    "require",
    "require_fresh_login",
    "revoke_api_key",
    "system",
    "update_project",
    "update_tenant",
    "update_user",
    "visible_tenants",
]
