"""Models and content-addressed versions. They belong to the installation, not to a tenant."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from kasbah.common.ids import uuid7
from kasbah.identity.models import SLUG, User


class Model(models.Model):
    """A family of weights by name, publisher and licence."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    publisher = models.CharField(max_length=200)
    licence = models.CharField(max_length=100)
    family = models.CharField(max_length=100)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class Stage(models.TextChoices):
    """Life of a version; `rejected` and `retired` are terminal."""

    QUARANTINED = "quarantined", _("quarantined")
    SCANNED = "scanned", _("scanned")
    APPROVED = "approved", _("approved")
    REJECTED = "rejected", _("rejected")
    RETIRED = "retired", _("retired")


class ModelVersion(models.Model):
    """Exact bytes: `digest` is the SHA-256 over the sorted manifest of `[{path, sha256, size}]`."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    model = models.ForeignKey(Model, on_delete=models.PROTECT, related_name="versions")
    digest = models.CharField(max_length=64, unique=True)
    manifest = models.JSONField()
    size = models.BigIntegerField()  # bytes, all files
    stage = models.CharField(max_length=20, choices=Stage.choices, default=Stage.QUARANTINED)
    topology = models.JSONField(default=dict)  # architecture, experts, experts_per_token, layers, context ...
    imported_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    approved_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(approved_by__isnull=True) | ~models.Q(approved_by=models.F("imported_by")),
                name="version_approved_by_a_second_person",
            )
        ]

    def __str__(self) -> str:
        return f"{self.model.name}@{self.digest[:12]}"
