"""API keys of a tenant's projects."""

from __future__ import annotations

from typing import ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.api import ListMixin, RetrieveMixin, StrictSerializer
from kasbah.common.references import ReferenceField
from kasbah.identity import services
from kasbah.identity.api import serializers as shapes
from kasbah.identity.models import ApiKey, Project


class KeyFilters(StrictSerializer):
    """Query parameters."""

    project = ReferenceField("identity.Project", required=False)
    name = serializers.CharField(required=False, max_length=200)


class ApiKeyViewSet(ListMixin, RetrieveMixin):
    """Keys of client applications. A secret is shown once, when its key is made."""

    queryset = ApiKey.objects.all()
    serializer_class = shapes.ApiKeyShown
    filters = KeyFilters
    access: ClassVar = {"list": "key.read", "retrieve": "key.read", "create": "key.manage", "revoke": "key.manage"}

    @extend_schema(request=shapes.ApiKeyCreate, responses={201: shapes.ApiKeyIssued})
    def create(self, request: Request, tenant: str) -> Response:
        """Issue a key. Its secret is in this answer and never again."""
        fields = self.body(shapes.ApiKeyCreate)
        project = Project.objects.filter(tenant_id=self.tenant.id, pk=fields["project"]).first()
        if project is None:
            raise serializers.ValidationError({"project": "There is no such project in this tenant."})
        issued = services.create_api_key(self.actor, self.tenant, **(fields | {"project": project}))
        return Response(self.get_serializer(issued.key).data | {"key": issued.text}, status=201)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, tenant: str, pk: str) -> Response:
        """Refuse this key from now on, everywhere within a second. It cannot be undone."""
        services.revoke_api_key(self.actor, self.find())
        return self.shown(self.find())
