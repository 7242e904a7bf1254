"""Tenants, their projects and members, and the platform's users."""

from __future__ import annotations

from typing import ClassVar

from django.db import models
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.access import AUTHENTICATED
from kasbah.common.api import ListMixin, RetrieveMixin, StrictSerializer
from kasbah.identity import services
from kasbah.identity.api import serializers as shapes
from kasbah.identity.models import Membership, Project, Role, Tenant, User


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
    }

    @extend_schema(request=shapes.MemberCreate, responses={201: shapes.MemberShown})
    def create(self, request: Request, tenant: str) -> Response:
        """Make a user a member."""
        fields = self.body(shapes.MemberCreate)
        user = services.find_user(fields["email"])
        return self.shown(services.add_member(self.actor, self.tenant, user, fields["role"]), 201)

    @extend_schema(request=shapes.MemberChange)
    def partial_update(self, request: Request, tenant: str, pk: str) -> Response:
        """Give a member another role."""
        found = self.find()
        fields = self.body(shapes.MemberChange, partial=True)
        return self.shown(services.change_role(self.actor, found, fields["role"]))

    def destroy(self, request: Request, tenant: str, pk: str) -> Response:
        """End a membership; the user stays."""
        services.remove_member(self.actor, self.find())
        return Response(status=204)


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
    }

    @extend_schema(request=shapes.UserCreate, responses={201: shapes.UserShown})
    def create(self, request: Request) -> Response:
        """Create a user."""
        return self.shown(services.create_user(self.actor, **self.body(shapes.UserCreate)), 201)

    @extend_schema(request=shapes.UserChange)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Rename a user, switch him off, set a new password."""
        found = self.find()
        fields = self.body(shapes.UserChange, partial=True)
        return self.shown(services.update_user(self.actor, found, **fields))
