"""Models and their content-addressed versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.common.references import ReferenceField
from kasbah.identity.models import SLUG
from kasbah.registry import services
from kasbah.registry.models import Model, ModelVersion, Stage


class ModelShown(serializers.ModelSerializer[Model]):
    """A family of weights."""

    class Meta:
        model = Model
        fields = ["id", "name", "publisher", "licence", "family", "created_at"]


class ModelFilters(StrictSerializer):
    """Query parameters."""

    name = serializers.CharField(required=False, max_length=63)
    family = serializers.CharField(required=False, max_length=100)
    publisher = serializers.CharField(required=False, max_length=200)


class ModelViewSet(ListMixin, RetrieveMixin):
    """Models by name, publisher and licence. A model comes into being with its first version."""

    queryset = Model.objects.all()
    named_by = "name"
    serializer_class = ModelShown
    filters = ModelFilters
    access: ClassVar = {"list": "model.read", "retrieve": "model.read"}


class FileShown(serializers.Serializer[Any]):
    """One file of a version."""

    path = serializers.CharField()
    size = serializers.IntegerField(help_text="Bytes.")
    sha256 = serializers.CharField()


class VersionShown(serializers.ModelSerializer[ModelVersion]):
    """Exact bytes under one digest."""

    model_name = serializers.CharField(source="model.name", read_only=True)
    manifest = FileShown(many=True, read_only=True)
    approval_digest = serializers.SerializerMethodField(help_text="What an approval is bound to.")
    topology = serializers.DictField(read_only=True, help_text="From config.json: experts, layers, context ...")

    class Meta:
        model = ModelVersion
        fields = [
            "id", "model", "model_name", "digest", "size", "stage", "topology", "manifest",
            "imported_by", "approved_by", "approval_digest", "created_at",
        ]  # fmt: skip

    def get_approval_digest(self, version: ModelVersion) -> str:
        """Of what the second person looks at."""
        return services.seen_of(version)


class VersionCreate(StrictBody):
    """A folder of the import directory that is to become a version."""

    folder = serializers.CharField(max_length=500, help_text="Relative to the import directory (KASBAH_IMPORT_DIR).")
    name = serializers.CharField(max_length=63, validators=[SLUG], help_text="Name of the model.")
    publisher = serializers.CharField(max_length=200)
    licence = serializers.CharField(max_length=100, help_text="SPDX identifier where there is one.")
    family = serializers.CharField(max_length=100)


class VersionApproval(StrictBody):
    """What was looked at."""

    digest = serializers.CharField(max_length=64, help_text="The version's approval_digest.")


class VersionFilters(StrictSerializer):
    """Query parameters."""

    model = ReferenceField("registry.Model", "name", required=False)
    stage = serializers.ChoiceField(Stage.choices, required=False)
    digest = serializers.RegexField(r"^[0-9a-f]{64}$", required=False)


class VersionViewSet(ListMixin, RetrieveMixin):
    """Versions of models: imported, then approved by a second person."""

    queryset = ModelVersion.objects.select_related("model")
    serializer_class = VersionShown
    filters = VersionFilters
    access: ClassVar = {
        "list": "model.read",
        "retrieve": "model.read",
        "create": "model.manage",
        "approve": "model.manage",
    }

    @extend_schema(request=VersionCreate, responses={201: VersionShown})
    def create(self, request: Request) -> Response:
        """Hash a folder of the import directory and keep it under its digest.

        The answer comes when all is hashed: for tens of gigabytes use the command `registermodel` instead.
        """
        fields = self.body(VersionCreate)
        folder = import_folder(fields.pop("folder"))
        return self.shown(services.register_version(self.actor, folder=folder, **fields), 201)

    @extend_schema(request=VersionApproval)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: UUID) -> Response:
        """Let this version be deployed, as a second person who logged in within the last ten minutes."""
        services.approve(self.actor, self.find(), self.body(VersionApproval)["digest"])
        return self.shown(self.find())


def import_folder(name: str) -> Path:
    """The folder `name` of the import directory. Raises ValidationError for one outside it, links followed."""
    if not settings.IMPORT_DIR:
        raise serializers.ValidationError({"folder": "No import directory is set: set KASBAH_IMPORT_DIR."})
    root = Path(settings.IMPORT_DIR).resolve()
    try:
        folder = (root / name).resolve()
        inside = folder != root and folder.is_relative_to(root) and folder.is_dir()
    except (OSError, RuntimeError, ValueError):
        inside = False
    if not inside:
        raise serializers.ValidationError({"folder": "There is no such folder in the import directory."})
    return folder
