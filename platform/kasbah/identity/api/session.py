"""Logging in and out, and who I am."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.contrib import auth
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.debug import sensitive_post_parameters
from drf_spectacular.utils import extend_schema
from rest_framework.authentication import BaseAuthentication
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.access import AUTHENTICATED, PUBLIC
from kasbah.common.api import ManagementView
from kasbah.common.errors import Forbidden
from kasbah.identity import services
from kasbah.identity.api import attempts
from kasbah.identity.api import serializers as shapes
from kasbah.identity.api.access import KeyUser, refuse_foreign_page
from kasbah.identity.models import User


def me(request: Request) -> dict[str, object]:
    """What `Me` shows of the one who asks."""
    actor: Any = request.auth
    key = request.user
    return {
        "kind": actor.kind,
        "id": actor.id,
        "name": key.principal.name if isinstance(key, KeyUser) else str(request.user),
        "is_platform_admin": actor.is_platform_admin,
        "scopes": sorted(key.principal.scopes) if isinstance(key, KeyUser) else [],
        "must_change_password": getattr(key, "must_change_password", False),
        "memberships": services.memberships(actor),
    }


class MeView(ManagementView):
    """Who the platform takes the caller for."""

    access: ClassVar = {"get": AUTHENTICATED}
    before_password_change = True

    @extend_schema(responses=shapes.Me)
    def get(self, request: Request) -> Response:
        """Who I am, and what I may do where."""
        return Response(me(request))


@method_decorator(sensitive_post_parameters(), name="dispatch")
class PasswordView(ManagementView):
    """One's own password. What somebody else set must be changed before anything else is possible."""

    access: ClassVar = {"post": AUTHENTICATED}
    before_password_change = True

    @extend_schema(request=shapes.PasswordChange, responses={204: None})
    def post(self, request: Request) -> Response:
        """Change it. All other sessions of this person end."""
        user: Any = request.user
        if not isinstance(user, User):
            raise Forbidden("A person changes his own password, logged in with it.", code="person_needed")
        form = shapes.PasswordChange(data=request.data)
        form.is_valid(raise_exception=True)
        address = request.META.get("REMOTE_ADDR", "")
        attempts.take(address, user.email)
        services.change_own_password(self.actor, user, **form.validated_data)
        attempts.give_back(address, user.email)
        auth.update_session_auth_hash(request._request, user)
        return Response(status=204)


class MyInvitationsView(ManagementView):
    """What the person who asks is invited to."""

    access: ClassVar = {"get": AUTHENTICATED}

    @extend_schema(responses=shapes.MyInvitation(many=True))
    def get(self, request: Request) -> Response:
        """Those that are open, at most one a tenant."""
        user: Any = request.user
        found = services.invitations_of(user) if isinstance(user, User) else []
        return Response(shapes.MyInvitation(found, many=True).data)


class AcceptInvitationView(ManagementView):
    """Nobody is a member without agreeing."""

    access: ClassVar = {"post": AUTHENTICATED}

    @extend_schema(request=None, responses={201: shapes.MembershipOfMe})
    def post(self, request: Request, pk: UUID) -> Response:
        """Become a member of the tenant that invites."""
        user: Any = request.user
        if not isinstance(user, User):
            raise Forbidden("A person accepts his own invitation, logged in.", code="person_needed")
        tenant, role = services.accept_invitation(self.actor, user, pk)
        return Response(shapes.MembershipOfMe({"tenant": tenant.slug, "name": tenant.name, "role": role}).data, 201)


@method_decorator(ensure_csrf_cookie, name="dispatch")
@method_decorator(sensitive_post_parameters(), name="dispatch")
class SessionView(ManagementView):
    """The session of a person in a browser. Programs use API keys."""

    before_password_change = True
    access: ClassVar = {"get": AUTHENTICATED, "post": PUBLIC, "delete": AUTHENTICATED}

    def get_authenticators(self) -> list[BaseAuthentication]:
        """Who logs in proves who he is by that alone, whatever session or key came with it."""
        posts = self.request is not None and self.request.method == "POST"
        return [] if posts else super().get_authenticators()

    @extend_schema(responses=shapes.Me)
    def get(self, request: Request) -> Response:
        """The session, or 401; either way the answer sets the CSRF cookie that whatever writes needs."""
        return Response(me(request))

    @extend_schema(request=shapes.Login, responses=shapes.Me)
    def post(self, request: Request) -> Response:
        """Log in. The answer sets the session's cookie and the CSRF cookie, whose value goes into X-CSRFToken.

        It needs no token itself, and takes the place of a session that is there.
        """
        refuse_foreign_page(request)
        form = shapes.Login(data=request.data)
        form.is_valid(raise_exception=True)
        email, address = form.validated_data["email"], request.META.get("REMOTE_ADDR", "")
        attempts.take(address, email)
        user = services.log_in(email, form.validated_data["password"])
        attempts.give_back(address, email)
        auth.login(request._request, user)  # a new session id; the old one is worth nothing
        request.user, request.auth = user, services.actor_of_user(user)
        return Response(me(request))

    @extend_schema(responses={204: None})
    def delete(self, request: Request) -> Response:
        """Log out."""
        services.log_out(self.actor)
        auth.logout(request._request)
        return Response(status=204)
