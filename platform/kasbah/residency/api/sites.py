"""Sites: datacenters of the installation."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from inference_worker.contract.signing import b64
from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.identity.models import SLUG
from kasbah.residency import services
from kasbah.residency.models import Site

JURISDICTION = r"^[A-Z]{2}$"


class SiteShown(serializers.ModelSerializer[Site]):
    """A site. Its broker's address holds a password and is never shown."""

    sealing_public_key = serializers.SerializerMethodField(help_text="X25519, raw, base64url.")

    class Meta:
        model = Site
        fields = ["id", "slug", "name", "jurisdiction", "active", "sealing_public_key", "created_at"]

    def get_sealing_public_key(self, site: Site) -> str:
        """Text of the key."""
        return b64(bytes(site.sealing_public_key))


class SiteCreate(StrictBody):
    """A new site."""

    slug = serializers.CharField(max_length=63, validators=[SLUG])
    name = serializers.CharField(max_length=200)
    jurisdiction = serializers.RegexField(JURISDICTION, help_text="ISO 3166-1 alpha-2, such as FR.")
    broker_url = serializers.CharField(
        max_length=500, write_only=True, help_text="redis:// or rediss:// address of the site's own broker."
    )


class SiteChange(StrictBody):
    """What may change."""

    name = serializers.CharField(max_length=200)
    active = serializers.BooleanField(help_text="False: nothing is sent there any more.")
    broker_url = serializers.CharField(max_length=500, write_only=True)


class SiteFilters(StrictSerializer):
    """Query parameters."""

    slug = serializers.CharField(required=False, max_length=63)
    jurisdiction = serializers.RegexField(JURISDICTION, required=False)
    active = serializers.BooleanField(required=False)


class SiteViewSet(ListMixin, RetrieveMixin):
    """Datacenters, each in one jurisdiction and with its own broker."""

    queryset = Site.objects.all()
    serializer_class = SiteShown
    filters = SiteFilters
    access: ClassVar = {
        "list": "site.read",
        "retrieve": "site.read",
        "create": "site.manage",
        "partial_update": "site.manage",
    }

    @extend_schema(request=SiteCreate, responses={201: SiteShown})
    def create(self, request: Request) -> Response:
        """Add a site; its sealing key is made here."""
        return self.shown(services.create_site(self.actor, **self.body(SiteCreate)), 201)

    @extend_schema(request=SiteChange)
    def partial_update(self, request: Request, pk: UUID) -> Response:
        """Rename a site, move its broker, or switch it off or on."""
        found = self.find()
        fields = self.body(SiteChange, partial=True)
        return self.shown(services.update_site(self.actor, found, **fields))
