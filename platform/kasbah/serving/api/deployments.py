"""Deployments, and which tenants may use them."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.db import models
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common import rls
from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.common.references import ReferenceField
from kasbah.identity.models import SLUG
from kasbah.identity.services import Actor, visible_tenants
from kasbah.registry.models import ModelVersion
from kasbah.residency.models import Site
from kasbah.serving import services
from kasbah.serving.models import Deployment, DeploymentGrant

MOST_SITES = 100


class DeploymentShown(serializers.ModelSerializer[Deployment]):
    """A model version served under a public name at some sites."""

    digest = serializers.CharField(source="model_version.digest", read_only=True)
    engine_settings = serializers.DictField(help_text="Flags of the engine; what is absent has its default.")

    class Meta:
        model = Deployment
        fields = ["id", "name", "model_version", "digest", "sites", "engine_settings", "enabled", "created_at"]


class DeploymentCreate(StrictBody):
    """A new deployment."""

    name = serializers.CharField(max_length=63, validators=[SLUG], help_text="What clients send as `model`.")
    model_version = serializers.UUIDField(help_text="An approved version.")
    sites = serializers.ListField(child=ReferenceField("residency.Site"), allow_empty=False, max_length=MOST_SITES)
    engine_settings = serializers.DictField(default=dict)


class DeploymentChange(StrictBody):
    """What may change."""

    sites = serializers.ListField(child=ReferenceField("residency.Site"), allow_empty=False, max_length=MOST_SITES)
    engine_settings = serializers.DictField()
    enabled = serializers.BooleanField(
        help_text="False: the model does not exist for anybody; workers stop its engine."
    )


class DeploymentFilters(StrictSerializer):
    """Query parameters."""

    name = serializers.CharField(required=False, max_length=63)
    enabled = serializers.BooleanField(required=False)
    model_version = serializers.UUIDField(required=False)


def sites(ids: list[UUID]) -> list[Site]:
    """The sites with these ids. Raises ValidationError that names the first one that does not exist."""
    found = Site.objects.in_bulk(ids)
    for index, ident in enumerate(ids):
        if ident not in found:
            raise serializers.ValidationError({"sites": {str(index): "There is no such site."}})
    return list(found.values())


def granted_to(actor: Actor) -> set[UUID]:
    """Ids of the deployments that the actor's tenants may use."""
    found: set[UUID] = set()
    for tenant in visible_tenants(actor):
        with rls.tenant_scope(tenant.id):
            found.update(DeploymentGrant.objects.values_list("deployment_id", flat=True))
    return found


class DeploymentViewSet(ListMixin, RetrieveMixin):
    """What is served where, under which name."""

    queryset = Deployment.objects.select_related("model_version").prefetch_related("sites")
    named_by = "name"
    serializer_class = DeploymentShown
    filters = DeploymentFilters
    access: ClassVar = {
        "list": "deployment.read",
        "retrieve": "deployment.read",
        "create": "deployment.manage",
        "partial_update": "deployment.manage",
    }

    def rows(self) -> models.QuerySet[Deployment]:
        """All for the platform's administrators; for others what their tenants may use: the rest does not exist."""
        deployments = self.get_queryset()
        return deployments if self.actor.is_platform_admin else deployments.filter(pk__in=granted_to(self.actor))

    @extend_schema(request=DeploymentCreate, responses={201: DeploymentShown})
    def create(self, request: Request) -> Response:
        """Deploy an approved version."""
        fields = self.body(DeploymentCreate)
        version = ModelVersion.objects.filter(pk=fields["model_version"]).first()
        if version is None:
            raise serializers.ValidationError({"model_version": "There is no such version."})
        chosen: dict[str, Any] = {"model_version": version, "sites": sites(fields["sites"])}
        return self.shown(services.create_deployment(self.actor, **(fields | chosen)), 201)

    @extend_schema(request=DeploymentChange)
    def partial_update(self, request: Request, pk: UUID) -> Response:
        """Change the sites or the engine's settings, or switch the deployment off or on."""
        found = self.find()
        fields = self.body(DeploymentChange, partial=True)
        if "sites" in fields:
            fields["sites"] = sites(fields["sites"])
        services.update_deployment(self.actor, found, **fields)
        return self.shown(self.find())


class GrantShown(serializers.ModelSerializer[DeploymentGrant]):
    """That a tenant may use a deployment."""

    name = serializers.CharField(source="deployment.name", read_only=True, help_text="Public name of the model.")

    class Meta:
        model = DeploymentGrant
        fields = ["id", "deployment", "name"]


class GrantCreate(StrictBody):
    """A deployment that the tenant is to use."""

    deployment = ReferenceField("serving.Deployment", "name")


class GrantFilters(StrictSerializer):
    """Query parameters."""

    deployment = serializers.CharField(required=False, max_length=63, help_text="Its id or its name.")


class GrantViewSet(ListMixin, RetrieveMixin):
    """Deployments that a tenant may use; without a grant a model does not exist for it."""

    queryset = DeploymentGrant.objects.select_related("deployment")
    serializer_class = GrantShown
    filters = GrantFilters
    access: ClassVar = {
        "list": "grant.read",
        "retrieve": "grant.read",
        "create": "grant.manage",
        "destroy": "grant.manage",
    }

    def filtered(self, queryset: models.QuerySet[Any], filters: dict[str, Any]) -> models.QuerySet[Any]:
        """Looked for among the tenant's own grants: a deployment that it may not use is like one that is not there."""
        if (wanted := filters.get("deployment")) is None:
            return queryset
        try:
            return queryset.filter(deployment_id=UUID(wanted))
        except ValueError:
            return queryset.filter(deployment__name=wanted)

    @extend_schema(request=GrantCreate, responses={201: GrantShown})
    def create(self, request: Request, tenant: str) -> Response:
        """Let the tenant use a deployment."""
        deployment = Deployment.objects.filter(pk=self.body(GrantCreate)["deployment"]).first()
        if deployment is None:
            raise serializers.ValidationError({"deployment": "There is no such deployment."})
        return self.shown(services.grant(self.actor, self.tenant, deployment), 201)

    def destroy(self, request: Request, tenant: str, pk: UUID) -> Response:
        """Take a deployment away from the tenant; running requests end as they would."""
        services.revoke_grant(self.actor, self.find())
        return Response(status=204)
