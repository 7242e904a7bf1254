"""Sites: datacenters of the installation."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from inference_worker.contract.signing import b64
from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.identity.models import SLUG
from kasbah.residency import services
from kasbah.residency.models import Site, SiteHealth, SiteState
from kasbah.residency.services.reachability import try_site

JURISDICTION = r"^[A-Z]{2}$"


ADDRESS = {
    "broker_url": "redis://, rediss://, amqp:// or amqps:// address of the site's own broker.",
    "store_url": "redis:// or rediss:// address of its stream store; empty: the broker is the store too.",
}


class HealthShown(serializers.ModelSerializer[SiteHealth]):
    """What housekeeping found when it last looked. `broker_state`, `store_state`: ok, or the class of the error."""

    troubles = serializers.ListField(
        child=serializers.CharField(), read_only=True, help_text="What is wrong with its workers, each by name."
    )

    class Meta:
        model = SiteHealth
        exclude = ["site"]


class SiteShown(serializers.ModelSerializer[Site]):
    """A site. The addresses of its broker and store hold passwords and are never shown."""

    sealing_public_key = serializers.SerializerMethodField(help_text="X25519, raw, base64url.")
    own_store = serializers.SerializerMethodField(help_text="Whether it has a stream store beside its broker.")
    health = HealthShown(read_only=True, allow_null=True, help_text="Null: not looked at yet.")

    class Meta:
        model = Site
        fields = [
            "id",
            "slug",
            "name",
            "jurisdiction",
            "zone",
            "state",
            "own_store",
            "health",
            "sealing_public_key",
            "created_at",
        ]

    def get_sealing_public_key(self, site: Site) -> str:
        """Text of the key."""
        return b64(bytes(site.sealing_public_key))

    def get_own_store(self, site: Site) -> bool:
        """Whether one was given."""
        return bool(site.store_url_sealed)


class SiteTried(serializers.Serializer[Any]):
    """What a first connection to each found: ok, or what is wrong."""

    broker = serializers.CharField()
    store = serializers.CharField()


class SiteCreated(SiteShown):
    """A new site."""

    tried = SiteTried(read_only=True)

    class Meta(SiteShown.Meta):
        fields = [*SiteShown.Meta.fields, "tried"]


class SiteCreate(StrictBody):
    """A new site."""

    slug = serializers.CharField(max_length=63, validators=[SLUG])
    name = serializers.CharField(max_length=200)
    jurisdiction = serializers.RegexField(JURISDICTION, help_text="ISO 3166-1 alpha-2, such as FR.")
    zone = serializers.CharField(
        max_length=63,
        validators=[SLUG],
        required=False,
        help_text="Zone of the organisation's network, such as restricted, for rules to name; it never changes.",
    )
    broker_url = serializers.CharField(max_length=500, write_only=True, help_text=ADDRESS["broker_url"])
    store_url = serializers.CharField(
        max_length=500, write_only=True, required=False, allow_blank=True, help_text=ADDRESS["store_url"]
    )


class SiteChange(StrictBody):
    """What may change."""

    name = serializers.CharField(max_length=200)
    broker_url = serializers.CharField(max_length=500, write_only=True, help_text=ADDRESS["broker_url"])
    store_url = serializers.CharField(max_length=500, write_only=True, allow_blank=True, help_text=ADDRESS["store_url"])


class SiteFilters(StrictSerializer):
    """Query parameters."""

    slug = serializers.CharField(required=False, max_length=63)
    jurisdiction = serializers.RegexField(JURISDICTION, required=False)
    state = serializers.ChoiceField(SiteState.choices, required=False)


class SiteViewSet(ListMixin, RetrieveMixin):
    """Datacenters, each in one jurisdiction and with its own broker."""

    queryset = Site.objects.select_related("health")
    named_by = "slug"
    serializer_class = SiteShown
    filters = SiteFilters
    access: ClassVar = {
        "list": "site.read",
        "retrieve": "site.read",
        "create": "site.manage",
        "partial_update": "site.manage",
        "cordon": "site.manage",
        "drain": "site.manage",
        "resume": "site.manage",
        "retire": "site.manage",
    }

    @extend_schema(request=SiteCreate, responses={201: SiteCreated})
    def create(self, request: Request) -> Response:
        """Add a site; its sealing key is made here. Its broker and store are tried, and the answer says what was found.

        The site is there whatever that was: it may be built before them.
        """
        site = services.create_site(self.actor, **self.body(SiteCreate))
        return Response(self.get_serializer(site).data | {"tried": try_site(site)}, 201)

    @extend_schema(request=SiteChange)
    def partial_update(self, request: Request, pk: UUID) -> Response:
        """Rename a site, or move its broker or its store."""
        found = self.find()
        fields = self.body(SiteChange, partial=True)
        return self.shown(services.update_site(self.actor, found, **fields))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def cordon(self, request: Request, pk: UUID) -> Response:
        """Send no new jobs there; what it has ends and its engines stay."""
        return self.shown(services.cordon_site(self.actor, self.find()))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def drain(self, request: Request, pk: UUID) -> Response:
        """Send no new jobs there, and stop its engines when what it has has ended."""
        return self.shown(services.drain_site(self.actor, self.find()))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: UUID) -> Response:
        """Send jobs there again."""
        return self.shown(services.resume_site(self.actor, self.find()))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def retire(self, request: Request, pk: UUID) -> Response:
        """Give a drained site up for good; its keys are destroyed. It stays in the list, and cannot be undone."""
        return self.shown(services.retire_site(self.actor, self.find()))
