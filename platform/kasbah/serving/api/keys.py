"""Keys of the control plane and of the sites: the public halves, and their rotation for platform administrators."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from inference_worker.contract.signing import b64
from kasbah.common.access import PUBLIC
from kasbah.common.api import ManagementView, ManagementViewSet
from kasbah.residency.models import SigningKey, Site
from kasbah.residency.services import signing_keys, site_keys
from kasbah.serving.services import keys


class KeyShown(serializers.ModelSerializer[SigningKey]):
    """A key, its public half alone."""

    public_key = serializers.SerializerMethodField(help_text="Raw, base64url.")

    class Meta:
        model = SigningKey
        fields = ["id", "key_id", "public_key", "state", "created_at", "current_at", "retired_at"]

    def get_public_key(self, key: SigningKey) -> str:
        """Text of the key."""
        return b64(bytes(key.public_key))


class KeysShown(serializers.Serializer[Any]):
    """All of them, oldest first."""

    data = KeyShown(many=True)  # type: ignore[assignment]  # the name that every list has


class KeyHolder(serializers.Serializer[Any]):
    """A live worker."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    site = serializers.CharField(source="site.slug")


class RotationShown(serializers.Serializer[Any]):
    """How far a rotation is. It goes on by itself when nobody is missing."""

    current = serializers.CharField(help_text="Id of the key in use.")
    following = serializers.CharField(allow_blank=True, help_text="Id of the next key; empty: there is none.")
    acknowledged = KeyHolder(many=True, help_text="Live workers that have the next key.")
    missing = KeyHolder(many=True, help_text="Live workers that have not: after a forced switch they would refuse.")


class SigningKeysView(ManagementView):
    """Ed25519 keys that sign tickets and assignments."""

    # Public keys are no secret, and whoever checks a receipt must not need an account for them.
    access: ClassVar = {"get": PUBLIC, "post": "site.manage"}

    @extend_schema(responses=KeysShown)
    def get(self, request: Request) -> Response:
        """Every key there ever was, so that old tickets and receipts are verified. Do not believe a revoked one."""
        return Response({"data": KeyShown(SigningKey.objects.order_by("id"), many=True).data})

    @extend_schema(request=None, responses={201: KeyShown})
    def post(self, request: Request) -> Response:
        """Begin a rotation: make the next key. It is used once every live worker knows it."""
        return Response(KeyShown(signing_keys.prepare_signing_key(self.actor)).data, status=201)


class SigningRotationView(ManagementView):
    """The rotation that is under way."""

    access: ClassVar = {"get": "site.manage", "post": "site.manage"}

    @extend_schema(responses=RotationShown)
    def get(self, request: Request) -> Response:
        """Who knows the next key, and who does not."""
        return Response(RotationShown(keys.signing_rotation()).data)

    @extend_schema(request=None, responses=RotationShown)
    def post(self, request: Request) -> Response:
        """Switch to the next key at once; `missing` tells who refuses jobs until it has read its assignment."""
        rotation = keys.signing_rotation()
        signing_keys.switch_signing_key(self.actor, **keys.forced(rotation))
        return Response(RotationShown(rotation).data)


class SigningKeyViewSet(ManagementViewSet):
    """One key."""

    queryset = SigningKey.objects.all()
    serializer_class = KeyShown
    access: ClassVar = {"revoke": "site.manage"}

    @extend_schema(request=None)
    def revoke(self, request: Request, pk: UUID) -> Response:
        """Never believe it again. The current key cannot be revoked: rotate first."""
        signing_keys.revoke_signing_key(self.actor, self.find().key_id)
        return Response(KeyShown(self.find()).data)


class SiteKeyViewSet(ManagementViewSet):
    """X25519 keys that payloads for a site are sealed for."""

    queryset = Site.objects.all()
    named_by = "slug"
    serializer_class = RotationShown
    access: ClassVar = {"rotation": "site.manage", "begin": "site.manage", "switch": "site.manage"}

    @extend_schema(responses=RotationShown)
    def rotation(self, request: Request, pk: UUID) -> Response:
        """Which key is in use, which comes next and who has that."""
        return Response(RotationShown(keys.site_rotation(self.find())).data)

    @extend_schema(request=None, responses={201: RotationShown})
    def begin(self, request: Request, pk: UUID) -> Response:
        """Make the site's next key. It is used once every live worker of the site has it."""
        site = self.find()
        site_keys.prepare_site_key(self.actor, site)
        return Response(RotationShown(keys.site_rotation(site)).data, status=201)

    @extend_schema(request=None, responses=RotationShown)
    def switch(self, request: Request, pk: UUID) -> Response:
        """Seal for the next key at once; `missing` tells who cannot open jobs until it has read its assignment."""
        site = self.find()
        rotation = keys.site_rotation(site)
        site_keys.switch_site_key(self.actor, site, **keys.forced(rotation))
        return Response(RotationShown(rotation).data)
