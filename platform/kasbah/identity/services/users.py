"""People: accounts of the platform, logging in and out."""

from __future__ import annotations

from uuid import UUID

from django.contrib.auth import authenticate
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import connection

from kasbah.audit.services import ActorRef, Event, EventType, Outcome, Resource, record, record_apart
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Forbidden, Invalid, Unauthenticated
from kasbah.common.requestid import current
from kasbah.identity.models import AccountChangeKind, User
from kasbah.identity.services.actors import USER, Actor, actor_of_user
from kasbah.identity.services.issuing import KeyChoice, settle_keys
from kasbah.identity.services.permissions import Permission, require
from kasbah.identity.services.standing import note_change

# One key for all changes of who administers the platform (pg_advisory_xact_lock); any constant of ours does.
ADMINISTRATORS_LOCK = 0x6B736261


def create_user(
    actor: Actor, email: str, password: str | None, name: str = "", is_platform_admin: bool = False
) -> User:
    """A new account; without password nobody can log in with one. Raises Forbidden, Invalid, Conflict.

    Whoever makes it knows the password, so its person must change it before anything else.
    """
    require(actor, Permission.USER_MANAGE, None)
    user = User(email=email.strip().lower(), name=name, is_platform_admin=is_platform_admin)
    _set_password(user, password)
    user.must_change_password = password is not None
    with rls.platform_scope():
        validation.save(user, "There is a user with this e-mail address already.", param="email")
        note_change(actor, user.id, AccountChangeKind.CREATED)
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
    keys: KeyChoice | None = None,
) -> User:
    """Change an account; a password that another sets must be changed by its person before anything else.

    `keys`: what becomes of his API keys when he is switched off. Raises Forbidden, Invalid, Conflict (the last active
    platform administrator; keys_remain).
    """
    require(actor, Permission.USER_MANAGE, None)
    changes = {"name": name, "is_active": is_active, "is_platform_admin": is_platform_admin}
    given = {field: value for field, value in changes.items() if value is not None}
    with rls.platform_scope():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [ADMINISTRATORS_LOCK])
        was = User.objects.get(pk=user.pk)
        for field, value in given.items():
            setattr(user, field, value)
        if password is not None:
            _set_password(user, password)
            user.must_change_password = actor.user_id != user.id
        if not (user.is_active and user.is_platform_admin):
            _keep_an_administrator(user)
        validation.save(user, "There is a user with this e-mail address already.")
        if was.is_active and not user.is_active:
            settle_keys(actor, user, keys)
        for kind in _kinds(was, user, password):
            note_change(actor, user.id, kind)
        fields = sorted([*given, *(["password"] if password is not None else [])])
        facts = {"is_active": user.is_active, "is_platform_admin": user.is_platform_admin}
        record(_event(EventType.USER_CHANGED, actor, user, fields=fields, **facts))
    return user


def change_own_password(actor: Actor, user: User, current_password: str, new_password: str) -> None:
    """A person gives himself a password that nobody else knows. Raises Forbidden (wrong_credentials), Invalid."""
    if actor.user_id != user.id:
        raise Forbidden("A person changes his own password, logged in with it.", code="person_needed")
    if not user.check_password(current_password):
        _note_failure(user.id, actor.ref)
        raise Forbidden("The present password is wrong.", param="current_password", code="wrong_credentials")
    if new_password == current_password:
        raise Invalid("Choose another password than the present one.", param="new_password")
    _set_password(user, new_password, param="new_password")
    user.must_change_password = False
    with rls.platform_scope():
        user.save(update_fields=["password", "must_change_password"])
        record(_event(EventType.PASSWORD_CHANGED, actor, user))


def log_in(email: str, password: str) -> User:
    """The user whose password this is; both outcomes are recorded. Raises Unauthenticated, whatever the reason."""
    user = authenticate(username=email.strip().lower(), password=password)
    if isinstance(user, User):
        with rls.platform_scope():
            record(_event(EventType.LOGIN_SUCCEEDED, actor_of_user(user, "password"), user))
        return user
    # Whose account was tried is told only where there is one; what was typed may be a password.
    tried = User.objects.filter(email=email.strip().lower()).values_list("id", flat=True).first()
    _note_failure(tried, ActorRef(USER, "unknown", "password"))
    raise Unauthenticated("The e-mail address or the password is wrong.", code="wrong_credentials")


def log_out(actor: Actor) -> None:
    """Record the end of a session."""
    with rls.platform_scope():
        record(Event(type=EventType.LOGOUT, tenant_id=None, actor=actor.ref, request_id=current()))


def _note_failure(tried: UUID | None, who: ActorRef) -> None:
    record_apart(
        Event(
            type=EventType.LOGIN_FAILED,
            tenant_id=None,
            actor=who,
            outcome=Outcome.DENIED,
            reason="wrong_credentials",
            resource=Resource("user", str(tried)) if tried else None,
            request_id=current(),
        )
    )


def _kinds(was: User, user: User, password: str | None) -> list[AccountChangeKind]:
    """What was done to an account that puts somebody behind it."""
    done = {
        AccountChangeKind.PASSWORD: password is not None,
        AccountChangeKind.ACTIVATED: user.is_active and not was.is_active,
        AccountChangeKind.PLATFORM_ROLE: user.is_platform_admin != was.is_platform_admin,
    }
    return [kind for kind, happened in done.items() if happened]


def _set_password(user: User, password: str | None, param: str = "password") -> None:
    if password is not None:
        try:
            validate_password(password, user)
        except ValidationError as error:
            raise Invalid(" ".join(error.messages), param=param) from error
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
