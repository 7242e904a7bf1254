"""Tenants, their projects and members, and the platform's users."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.access import AUTHENTICATED
from kasbah.common.api import ListMixin, RetrieveMixin, StrictSerializer
from kasbah.common.errors import Invalid
from kasbah.identity import services
from kasbah.identity.api import serializers as shapes
from kasbah.identity.models import Invitation, InvitationState, Membership, Project, Role, Tenant, User


class TenantFilters(StrictSerializer):
    """Query parameters."""

    active = serializers.BooleanField(required=False)
    slug = serializers.CharField(required=False, max_length=63)


class TenantViewSet(ListMixin, RetrieveMixin):
    """Organisations whose data is kept apart."""

    queryset = Tenant.objects.all()
    serializer_class = shapes.TenantShown
    filters = TenantFilters
    lookup_field = "slug"
    lookup_url_kwarg = "tenant"
    lookup_value_converter = "slug"
    access: ClassVar = {
        "list": AUTHENTICATED,
        "retrieve": "tenant.read",
        "create": "tenant.manage",
        "partial_update": "tenant.manage",
    }

    def rows(self) -> models.QuerySet[Tenant]:
        """Those that the one who asks may see; the table itself has no tenant column."""
        return services.visible_tenants(self.actor)

    @extend_schema(request=shapes.TenantCreate, responses={201: shapes.TenantShown})
    def create(self, request: Request) -> Response:
        """Create a tenant."""
        fields = self.body(shapes.TenantCreate)
        return self.shown(services.create_tenant(self.actor, **fields), 201)

    @extend_schema(request=shapes.TenantChange)
    def partial_update(self, request: Request, tenant: str) -> Response:
        """Rename a tenant, change its default data class, or switch it off or on."""
        found = self.find()
        fields = self.body(shapes.TenantChange, partial=True)
        return self.shown(services.update_tenant(self.actor, found, **fields))


class ProjectFilters(StrictSerializer):
    """Query parameters."""

    slug = serializers.CharField(required=False, max_length=63)


class ProjectViewSet(ListMixin, RetrieveMixin):
    """Groups of keys of a tenant."""

    queryset = Project.objects.all()
    named_by = "slug"
    serializer_class = shapes.ProjectShown
    filters = ProjectFilters
    access: ClassVar = {
        "list": "project.read",
        "retrieve": "project.read",
        "create": "project.manage",
        "partial_update": "project.manage",
    }

    @extend_schema(request=shapes.ProjectCreate, responses={201: shapes.ProjectShown})
    def create(self, request: Request, tenant: str) -> Response:
        """Create a project."""
        fields = self.body(shapes.ProjectCreate)
        return self.shown(services.create_project(self.actor, self.tenant, **fields), 201)

    @extend_schema(request=shapes.ProjectChange)
    def partial_update(self, request: Request, tenant: str, pk: str) -> Response:
        """Rename a project or change its default data class."""
        found = self.find()
        fields = self.body(shapes.ProjectChange, partial=True)
        return self.shown(services.update_project(self.actor, found, **fields))


class MemberFilters(StrictSerializer):
    """Query parameters."""

    role = serializers.ChoiceField(Role.choices, required=False)
    user = serializers.UUIDField(required=False)


class MemberViewSet(ListMixin, RetrieveMixin):
    """Who may do what in a tenant."""

    queryset = Membership.objects.select_related("user")
    serializer_class = shapes.MemberShown
    filters = MemberFilters
    access: ClassVar = {
        "list": "member.read",
        "retrieve": "member.read",
        "create": "member.manage",
        "partial_update": "member.manage",
        "destroy": "member.manage",
        "changes": "member.read",
        "confirm_changes": "member.manage",
    }

    @extend_schema(request=shapes.MemberCreate, responses={202: shapes.InvitationShown})
    def create(self, request: Request, tenant: str) -> Response:
        """Invite somebody to be a member. The answer is the same whether anybody has this address; he must agree."""
        made = services.invite(self.actor, self.tenant, **self.body(shapes.MemberCreate))
        return Response(shapes.InvitationShown(made).data, status=202)

    @extend_schema(request=shapes.MemberChange)
    def partial_update(self, request: Request, tenant: str, pk: str) -> Response:
        """Give a member another role."""
        found = self.find()
        fields = self.body(shapes.MemberChange, partial=True)
        return self.shown(services.change_role(self.actor, found, fields["role"]))

    @extend_schema(parameters=[shapes.KeysQuery])
    def destroy(self, request: Request, tenant: str, pk: str) -> Response:
        """End a membership; the user stays. Where he made API keys that are still good, say what becomes of them."""
        query = shapes.KeysQuery(data=request.query_params.dict())
        query.is_valid(raise_exception=True)
        services.remove_member(self.actor, self.find(), shapes.key_choice(query.validated_data))
        return Response(status=204)

    @extend_schema(responses=shapes.UnconfirmedShown)
    @action(detail=True, methods=["get"])
    def changes(self, request: Request, tenant: str, pk: str) -> Response:
        """What others did to this person's role within the waiting time, and nobody has confirmed."""
        return Response(shapes.UnconfirmedShown(services.unconfirmed(self.find().user_id, self.tenant.id)).data)

    @extend_schema(request=shapes.Confirmation, responses=shapes.UnconfirmedShown)
    @action(detail=True, methods=["post"], url_path="confirm-changes")
    def confirm_changes(self, request: Request, tenant: str, pk: str) -> Response:
        """Confirm, as a third person, that the role is rightly this person's."""
        found = self.find()
        digest = self.body(shapes.Confirmation)["digest"]
        return _confirmed(services.confirm_changes(self.actor, found.user, self.tenant.id, digest))


class InvitationFilters(StrictSerializer):
    """Query parameters."""

    state = serializers.ChoiceField(InvitationState.choices, required=False)


class InvitationViewSet(ListMixin, RetrieveMixin):
    """Who is invited to the tenant. `POST members/` invites."""

    queryset = Invitation.objects.all()
    serializer_class = shapes.InvitationShown
    filters = InvitationFilters
    access: ClassVar = {"list": "member.read", "retrieve": "member.read", "withdraw": "member.manage"}

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def withdraw(self, request: Request, tenant: str, pk: str) -> Response:
        """Take an invitation back that nobody has accepted."""
        return self.shown(services.withdraw_invitation(self.actor, self.find()))


def _confirmed(done: services.Unconfirmed) -> Response:
    return Response(shapes.UnconfirmedShown(done).data)


class UserFilters(StrictSerializer):
    """Query parameters."""

    email = serializers.CharField(required=False, max_length=254)
    is_active = serializers.BooleanField(required=False)
    is_platform_admin = serializers.BooleanField(required=False)


class UserViewSet(ListMixin, RetrieveMixin):
    """People of the whole platform."""

    queryset = User.objects.all()
    serializer_class = shapes.UserShown
    filters = UserFilters
    access: ClassVar = {
        "list": "user.read",
        "retrieve": "user.read",
        "create": "user.manage",
        "partial_update": "user.manage",
        "keys": "user.read",
        "changes": "user.read",
        "confirm_changes": "user.manage",
    }

    @extend_schema(request=shapes.UserCreate, responses={201: shapes.UserShown})
    def create(self, request: Request) -> Response:
        """Create a user."""
        return self.shown(services.create_user(self.actor, **self.body(shapes.UserCreate)), 201)

    @extend_schema(request=shapes.UserChange)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Rename a user, switch him off, set a new password, which he must change.

        Whoever is switched off may have made API keys: then say what becomes of them.
        """
        found = self.find()
        fields = self.body(shapes.UserChange, partial=True)
        if "keys" in fields and fields.get("is_active") is not False:
            raise Invalid("This goes with is_active false alone.", param="keys")
        fields["keys"] = shapes.key_choice(fields)
        return self.shown(services.update_user(self.actor, found, **fields))

    @extend_schema(responses=shapes.ApiKeyShown(many=True))
    @action(detail=True, methods=["get"], pagination_class=None)
    def keys(self, request: Request, pk: str) -> Response:
        """The API keys that this person made and that are still good, of every tenant, oldest first."""
        return Response(shapes.ApiKeyShown(services.live_keys(self.find()), many=True).data)

    @extend_schema(responses=shapes.UnconfirmedShown)
    @action(detail=True, methods=["get"])
    def changes(self, request: Request, pk: str) -> Response:
        """What others did to this account within the waiting time, and nobody has confirmed."""
        return Response(shapes.UnconfirmedShown(services.unconfirmed(self.find().id, None)).data)

    @extend_schema(request=shapes.Confirmation, responses=shapes.UnconfirmedShown)
    @action(detail=True, methods=["post"], url_path="confirm-changes")
    def confirm_changes(self, request: Request, pk: str) -> Response:
        """Confirm, as a third person, that the account is this person's own."""
        found = self.find()
        digest = self.body(shapes.Confirmation)["digest"]
        return _confirmed(services.confirm_changes(self.actor, found, None, digest))
