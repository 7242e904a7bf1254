"""The keys of the control plane and of the sites: made, handed out, used, put away."""

from __future__ import annotations

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from kasbah.common.ids import uuid7


class KeyState(models.TextChoices):
    """Life of a key: next (handed out, not used yet), current, retired; revoked at any time."""

    NEXT = "next", _("next")
    CURRENT = "current", _("current")
    RETIRED = "retired", _("retired")
    REVOKED = "revoked", _("revoked")


class Key(models.Model):
    """A pair whose private half lies sealed until it is destroyed (then empty); the public half stays for good."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    key_id = models.CharField(max_length=16, unique=True)  # contract.signing.key_id of the public key
    public_key = models.BinaryField(max_length=32)
    private_key_sealed = models.BinaryField(default=b"")
    state = models.CharField(max_length=10, choices=KeyState.choices, default=KeyState.NEXT)
    created_at = models.DateTimeField(auto_now_add=True)
    current_at = models.DateTimeField(null=True)
    retired_at = models.DateTimeField(null=True)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.key_id

    def follow(self, before: Key | None) -> None:
        """Be the current key; the one before is retired first, since only one can be current."""
        now = timezone.now()
        if before is not None:
            before.state, before.retired_at = KeyState.RETIRED, now
            before.save(update_fields=["state", "retired_at"])
        self.state, self.current_at = KeyState.CURRENT, now
        self.save(update_fields=["state", "current_at"])

    def end(self, state: KeyState) -> None:
        """Destroy the private half; the key is retired or revoked."""
        self.state, self.private_key_sealed, self.retired_at = state, b"", self.retired_at or timezone.now()
        self.save(update_fields=["state", "private_key_sealed", "retired_at"])


class SigningKey(Key):
    """Ed25519: the control plane signs tickets and assignments with it."""

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["state"], condition=models.Q(state__in=["next", "current"]), name="one_signing_key_a_state"
            ),
        ]


class SiteKey(Key):
    """X25519: payloads are sealed for it, and the site's workers have its private half."""

    site = models.ForeignKey("residency.Site", on_delete=models.PROTECT, related_name="keys")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["site", "state"], condition=models.Q(state__in=["next", "current"]), name="one_site_key_a_state"
            ),
        ]
