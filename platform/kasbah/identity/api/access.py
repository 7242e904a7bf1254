"""Who asks, and whether he may: the authentication and permission classes of every management endpoint.

Settings name them, so that apps below identity (the audit log) use them without importing upwards. Nothing here
may import rest_framework.views, which reads those settings when it is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import CsrfViewMiddleware
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.authentication import SessionAuthentication as DjangoSession
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from kasbah.common.access import AUTHENTICATED, PUBLIC, Guarded
from kasbah.common.api_errors import NOT_FOUND
from kasbah.common.errors import Forbidden, KasbahError, NotFound, Unauthenticated
from kasbah.identity import services
from kasbah.identity.models import Scope
from kasbah.identity.services import Actor, Permission, Principal


@dataclass(frozen=True)
class KeyUser:
    """What `request.user` is when a key asks."""

    principal: Principal
    is_authenticated: bool = True
    is_active: bool = True

    def __str__(self) -> str:
        return f"API key {self.principal.key_id}"


class KeyAuthentication(BaseAuthentication):
    """`Authorization: Bearer ksb_...`."""

    def authenticate(self, request: Request) -> tuple[KeyUser, Actor] | None:
        """The key's actor, or None when no such header came. Raises AuthenticationFailed."""
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        try:
            principal = services.authenticate_key(text.strip())
        except Unauthenticated as error:
            raise exceptions.AuthenticationFailed(error.message) from error
        return KeyUser(principal), services.actor_of_key(principal)

    def authenticate_header(self, request: Request) -> str:
        """Makes an unknown caller a 401."""
        return 'Bearer realm="kasbah"'


class SessionAuthentication(DjangoSession):
    """The cookie of /api/session/, with a CSRF token for what writes."""

    def authenticate(self, request: Request) -> tuple[Any, Actor] | None:
        """The user's actor, or None."""
        found = super().authenticate(request)
        if found is None:
            return None
        began = services.login_time(request._request.session)
        return found[0], services.actor_of_user(found[0], logged_in_at=began)


class _OriginCheck(CsrfViewMiddleware):
    def allows(self, request: HttpRequest) -> bool:
        """Whether Django's own check of the header Origin passes, or there is none."""
        return "HTTP_ORIGIN" not in request.META or bool(self._origin_verified(request))  # type: ignore[attr-defined]


def refuse_foreign_page(request: Request) -> None:
    """Return when a login was not sent by another site's page in somebody's browser. Raises PermissionDenied.

    Before a login there is no session that a forged request could use, so no CSRF token is asked for; what is left is
    a page that logs its visitor in as somebody else (login CSRF). It cannot send JSON without asking first (CORS
    preflight, Fetch 4.8, which nobody answers here), and browsers say where a request comes from.
    """
    site = request.headers.get("Sec-Fetch-Site", "none").strip().lower()
    if site not in ("same-origin", "none") or not _OriginCheck(lambda _: HttpResponse()).allows(request._request):
        raise exceptions.PermissionDenied("CSRF: a page of another origin may not log anybody in here.")


class Permitted(BasePermission):
    """Asks identity.services.require for the permission that the view declares; what declares none is denied."""

    def has_permission(self, request: Request, view: Any) -> bool:
        """Leaves the tenant of the path in `view.tenant`. Raises NotAuthenticated, PermissionDenied, NotFound."""
        if not isinstance(view, Guarded):
            return False
        needed = view.permission_needed()
        if needed == PUBLIC:
            return True
        if request.auth is None:
            raise exceptions.NotAuthenticated
        if needed is None:
            if (request.method or "") not in view.allowed_methods:
                raise exceptions.MethodNotAllowed(request.method or "")
            return False
        if getattr(request.user, "must_change_password", False) and not getattr(view, "before_password_change", False):
            raise Forbidden(
                "Somebody else knows your password: whoever made your account or reset it. First choose your own "
                "(POST /api/me/password/ with current_password and new_password).",
                code="password_change_required",
            )
        try:
            self._authorise(request, view, needed)
        except NotFound as error:
            view.tenant = None  # for this caller there is none
            raise exceptions.NotFound(NOT_FOUND) from error
        except KasbahError as error:
            raise exceptions.PermissionDenied(error.message) from error
        return True

    def _authorise(self, request: Request, view: Guarded, needed: str) -> None:
        actor: Any = request.auth
        if isinstance(request.user, KeyUser):
            _check_scope(request, request.user.principal, needed)
        if (slug := view.kwargs.get("tenant")) is not None:
            view.tenant = services.find_tenant(slug)
        if needed != AUTHENTICATED:
            services.require(actor, Permission(needed), view.tenant)


def _check_scope(request: Request, principal: Principal, needed: str) -> None:
    reads = {Scope.MANAGEMENT.value, Scope.MANAGEMENT_READ.value}
    wanted = reads if request.method in SAFE_METHODS else {Scope.MANAGEMENT.value}
    if needed == AUTHENTICATED:
        return  # who it is, and where its own requests were processed, any key may ask
    if wanted.isdisjoint(principal.scopes):
        raise exceptions.PermissionDenied(f"This key lacks the scope {' or '.join(sorted(wanted))}.")
