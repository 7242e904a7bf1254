"""Who is who, and who may do what."""

from kasbah.identity.services.actors import Actor, actor_of_key, actor_of_user, person_behind, system
from kasbah.identity.services.approvals import (
    Proposal,
    acting_person,
    require_approver,
    require_second_person,
    require_seen,
)
from kasbah.identity.services.invitations import accept_invitation, invitations_of, invite, withdraw_invitation
from kasbah.identity.services.issuing import IssuedKey, KeyChoice, create_api_key, live_keys, revoke_api_key
from kasbah.identity.services.logins import login_time, require_fresh_login
from kasbah.identity.services.permissions import ROLES, Permission, person_may, require
from kasbah.identity.services.principals import Principal, PrincipalCache, authenticate_key, find_principal
from kasbah.identity.services.standing import Unconfirmed, confirm_changes, require_appointed, unconfirmed
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
from kasbah.identity.services.users import change_own_password, create_user, log_in, log_out, update_user

__all__ = [
    "ROLES",
    "Actor",
    "IssuedKey",
    "KeyChoice",
    "Permission",
    "Principal",
    "PrincipalCache",
    "Proposal",
    "Unconfirmed",
    "accept_invitation",
    "acting_person",
    "actor_of_key",
    "actor_of_user",
    "add_member",
    "authenticate_key",
    "change_own_password",
    "change_role",
    "confirm_changes",
    "create_api_key",
    "create_project",
    "create_tenant",
    "create_user",
    "find_principal",
    "find_tenant",
    "invitations_of",
    "invite",
    "live_keys",
    "log_in",
    "log_out",
    "login_time",
    "memberships",
    "person_behind",
    "person_may",
    "remove_member",
    "require",
    "require_appointed",
    "require_approver",
    "require_fresh_login",
    "require_second_person",
    "require_seen",
    "revoke_api_key",
    "system",
    "unconfirmed",
    "update_project",
    "update_tenant",
    "update_user",
    "visible_tenants",
    "withdraw_invitation",
]
