"""People: accounts of the platform, logging in and out."""

from __future__ import annotations

from django.contrib.auth import authenticate
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import connection

from kasbah.audit.services import ActorRef, Event, EventType, Outcome, Resource, record, record_apart
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Invalid, NotFound, Unauthenticated
from kasbah.common.requestid import current
from kasbah.identity.models import User
from kasbah.identity.services.actors import USER, Actor, actor_of_user
from kasbah.identity.services.permissions import Permission, require

# One key for all changes of who administers the platform (pg_advisory_xact_lock); any constant of ours does.
ADMINISTRATORS_LOCK = 0x6B736261


def find_user(email: str) -> User:
    """By e-mail, without case. Raises NotFound."""
    user = User.objects.filter(email=email.strip().lower()).first()
    if user is None:
        raise NotFound("There is no user with this e-mail address. Create the user first.", param="email")
    return user


def create_user(
    actor: Actor, email: str, password: str | None, name: str = "", is_platform_admin: bool = False
) -> User:
    """A new account; without password nobody can log in with one. Raises Forbidden, Invalid, Conflict."""
    require(actor, Permission.USER_MANAGE, None)
    user = User(email=email.strip().lower(), name=name, is_platform_admin=is_platform_admin)
    _set_password(user, password)
    with rls.platform_scope():
        validation.save(user, "There is a user with this e-mail address already.", param="email")
        record(_event(EventType.USER_CREATED, actor, user, is_platform_admin=is_platform_admin))
    return user


def update_user(
    actor: Actor,
    user: User,
    *,
    name: str | None = None,
    is_active: bool | None = None,
    is_platform_admin: bool | None = None,
    password: str | None = None,
) -> User:
    """Change an account. Raises Forbidden, Invalid, Conflict (the last active platform administrator)."""
    require(actor, Permission.USER_MANAGE, None)
    changes = {"name": name, "is_active": is_active, "is_platform_admin": is_platform_admin}
    given = {field: value for field, value in changes.items() if value is not None}
    with rls.platform_scope():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADMINISTRATORS_LOCK])
        for field, value in given.items():
            setattr(user, field, value)
        if password is not None:
            _set_password(user, password)
        if not (user.is_active and user.is_platform_admin):
            _keep_an_administrator(user)
        validation.save(user, "There is a user with this e-mail address already.")
        fields = sorted([*given, *(["password"] if password is not None else [])])
        facts = {"is_active": user.is_active, "is_platform_admin": user.is_platform_admin}
        record(_event(EventType.USER_CHANGED, actor, user, fields=fields, **facts))
    return user


def log_in(email: str, password: str) -> User:
    """The user whose password this is; both outcomes are recorded. Raises Unauthenticated, whatever the reason."""
    user = authenticate(username=email.strip().lower(), password=password)
    if isinstance(user, User):
        with rls.platform_scope():
            record(_event(EventType.LOGIN_SUCCEEDED, actor_of_user(user, "password"), user))
        return user
    # Whose account was tried is told only where there is one; what was typed may be a password.
    tried = User.objects.filter(email=email.strip().lower()).values_list("id", flat=True).first()
    record_apart(
        Event(
            type=EventType.LOGIN_FAILED,
            tenant_id=None,
            actor=ActorRef(USER, "unknown", "password"),
            outcome=Outcome.DENIED,
            reason="wrong_credentials",
            resource=Resource("user", str(tried)) if tried else None,
            request_id=current(),
        )
    )
    raise Unauthenticated("The e-mail address or the password is wrong.", code="wrong_credentials")


def log_out(actor: Actor) -> None:
    """Record the end of a session."""
    with rls.platform_scope():
        record(Event(type=EventType.LOGOUT, tenant_id=None, actor=actor.ref, request_id=current()))


def _set_password(user: User, password: str | None) -> None:
    if password is not None:
        try:
            validate_password(password, user)
        except ValidationError as error:
            raise Invalid(" ".join(error.messages), param="password") from error
    user.set_password(password)


def _keep_an_administrator(user: User) -> None:
    was = User.objects.filter(id=user.id, is_platform_admin=True, is_active=True).exists()
    others = User.objects.filter(is_platform_admin=True, is_active=True).exclude(id=user.id)
    if was and not others.exists():
        raise Conflict(
            "This is the last platform administrator. Make another user platform administrator first.",
            code="last_administrator",
        )


def _event(kind: EventType, actor: Actor, user: User, **details: str | bool | list[str]) -> Event:
    return Event(
        type=kind,
        tenant_id=None,
        actor=actor.ref,
        resource=Resource("user", str(user.id)),
        request_id=current(),
        details=details,
    )
