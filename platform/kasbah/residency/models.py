"""Sites and versioned residency policies."""

from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from kasbah.common.ids import uuid7
from kasbah.identity.models import SLUG, Tenant, User


class Site(models.Model):
    """A datacenter in one jurisdiction, with its own broker, stream store and sealing key."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.CharField(max_length=63, unique=True, validators=[SLUG])
    name = models.CharField(max_length=200)
    jurisdiction = models.CharField(
        max_length=2,
        validators=[RegexValidator(r"^[A-Z]{2}$", _("Use the two capital letters of ISO 3166-1, such as FR."))],
    )
    broker_url_sealed = models.BinaryField()  # holds a password
    sealing_public_key = models.BinaryField(max_length=32)  # X25519, raw
    sealing_private_key_sealed = models.BinaryField()
    active = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.slug


class PolicyState(models.TextChoices):
    """Life of a policy version."""

    DRAFT = "draft", _("draft")
    ACTIVE = "active", _("active")
    SUPERSEDED = "superseded", _("superseded")


class Policy(models.Model):
    """One version of a tenant's residency policy; every version is kept, one is active."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="policies")
    version = models.PositiveIntegerField()
    document = models.JSONField()
    state = models.CharField(max_length=20, choices=PolicyState.choices, default=PolicyState.DRAFT)
    created_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    activated_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "version"], name="policy_version_once_a_tenant"),
            models.UniqueConstraint(
                fields=["tenant"], condition=models.Q(state="active"), name="one_active_policy_a_tenant"
            ),
        ]
