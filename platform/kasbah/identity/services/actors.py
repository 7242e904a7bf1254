"""Who acts."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from kasbah.audit.services import ActorRef
from kasbah.common import rls
from kasbah.identity.models import ApiKey, User
from kasbah.identity.services.principals import Principal

USER, API_KEY, SYSTEM = "user", "api_key", "system"
COMMAND = "command"  # how somebody proved who he is who runs commands of the installation


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who asks for something: a person, a key, or the platform itself.

    A key's `role` and `tenant_id` are its own; where it has a `maker`, it can do no more than that person can now.
    A person's role differs by tenant: `require` looks it up.
    `logged_in_at` is when a person's session began, in seconds since the epoch; 0: not known.
    """

    kind: str
    id: str
    authentication: str
    is_platform_admin: bool = False
    role: str = ""
    tenant_id: UUID | None = None
    logged_in_at: float = 0.0
    maker: UUID | None = None

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


def actor_of_user(user: User, authentication: str = "session", logged_in_at: float = 0.0) -> Actor:
    """A person who proved who he is, at `logged_in_at` (seconds since the epoch; 0: not known)."""
    return Actor(
        USER,
        str(user.id),
        authentication,
        is_platform_admin=user.is_platform_admin,
        logged_in_at=logged_in_at,
    )


def actor_of_key(principal: Principal) -> Actor:
    """A client that showed a key."""
    return Actor(
        API_KEY,
        str(principal.key_id),
        "api_key",
        role=principal.role,
        tenant_id=principal.tenant_id,
        maker=principal.maker,
    )


def person_behind(actor: Actor) -> UUID | None:
    """Who answers for what `actor` does: the person himself, or whoever made the key; None for the platform."""
    if actor.kind != API_KEY or actor.tenant_id is None:
        return actor.user_id
    with rls.tenant_scope(actor.tenant_id):
        return ApiKey.objects.filter(pk=actor.id).values_list("created_by_id", flat=True).first()
