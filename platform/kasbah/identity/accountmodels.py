"""Who stands behind whose account, and who was invited where."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from kasbah.common.ids import uuid7


class AccountChangeKind(models.TextChoices):
    """What was done to an account that lets whoever did it use it, or that gave it its power."""

    CREATED = "created", _("created")
    PASSWORD = "password", _("password set by another")
    ACTIVATED = "activated", _("switched on again")
    PLATFORM_ROLE = "platform_role", _("platform administrator or no longer")
    ROLE = "role", _("role in a tenant")


class AccountChange(models.Model):
    """Somebody made or changed another person's account, password or role. Never altered, but confirmed once.

    Persons are pseudonymous ids, as in events. A trigger refuses everything but a first confirmation.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    user_id = models.UUIDField()  # whose account
    tenant_id = models.UUIDField(null=True)  # of a role in a tenant; null: of the account itself
    kind = models.CharField(max_length=20, choices=AccountChangeKind.choices)
    actor_kind = models.CharField(max_length=10)  # user, api_key, system: as in events
    actor_id = models.CharField(max_length=100)
    changed_by = models.UUIDField(null=True)  # the person himself, or whoever made the key; null: nobody is known
    changed_at = models.DateTimeField(db_default=Now())
    confirmed_by = models.CharField(max_length=100, blank=True, default="")  # kind and id: user:..., system:command:...
    confirmed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(confirmed_at=None, confirmed_by="")
                | (models.Q(confirmed_at__isnull=False) & ~models.Q(confirmed_by="")),
                name="account_change_confirmed_by_somebody",
            ),
        ]
        indexes = [models.Index(fields=["user_id", "changed_at"], name="account_change_of_user")]


class InvitationState(models.TextChoices):
    """How far it is; only what is open goes on from there."""

    OPEN = "open", _("open")
    ACCEPTED = "accepted", _("accepted")
    WITHDRAWN = "withdrawn", _("withdrawn")
    EXPIRED = "expired", _("expired")


class Invitation(models.Model):
    """A role in a tenant for whoever has this e-mail address, once he agrees; nobody looked whether he exists."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey("identity.Tenant", on_delete=models.PROTECT, related_name="invitations")
    email = models.EmailField()
    role = models.CharField(max_length=20)
    state = models.CharField(max_length=10, choices=InvitationState.choices, default=InvitationState.OPEN)
    actor_kind = models.CharField(max_length=10)  # who invites: user, api_key, system, as in events
    actor_id = models.CharField(max_length=100)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    answered_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["tenant", "email"], condition=models.Q(state="open"), name="one_open_invitation_an_address"
            ),
        ]
