"""Who acts."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from kasbah.audit.services import ActorRef
from kasbah.identity.models import User
from kasbah.identity.services.principals import Principal

USER, API_KEY, SYSTEM = "user", "api_key", "system"


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who asks for something: a person, a key, or the platform itself.

    A key's `role` and `tenant_id` are its own. A person's role differs by tenant: `require` looks it up.
    """

    kind: str
    id: str
    authentication: str
    is_platform_admin: bool = False
    role: str = ""
    tenant_id: UUID | None = None

    @property
    def ref(self) -> ActorRef:
        """How the audit log names him."""
        return ActorRef(self.kind, self.id, self.authentication)

    @property
    def user_id(self) -> UUID | None:
        """The person's id, for columns such as created_by; None for keys and the platform."""
        return UUID(self.id) if self.kind == USER else None


def system(name: str, authentication: str = "internal") -> Actor:
    """The platform itself: housekeeping, or a command run by whoever holds the installation's secrets."""
    return Actor(SYSTEM, name, authentication, is_platform_admin=True)


def actor_of_user(user: User, authentication: str = "session") -> Actor:
    """A person who proved who he is."""
    return Actor(USER, str(user.id), authentication, is_platform_admin=user.is_platform_admin)


def actor_of_key(principal: Principal) -> Actor:
    """A client that showed a key."""
    return Actor(API_KEY, str(principal.key_id), "api_key", role=principal.role, tenant_id=principal.tenant_id)
