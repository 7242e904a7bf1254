"""Sites and versioned residency policies."""

from __future__ import annotations

import hashlib

from django.core.validators import RegexValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from inference_worker.contract import canonical
from kasbah.common.ids import uuid7
from kasbah.identity.models import SLUG, Tenant, User
from kasbah.residency.keymodels import KeyState, SigningKey, SiteKey
from kasbah.residency.places import SiteFact

__all__ = ["KeyState", "SigningKey", "SiteKey"]  # beside what is defined here


class SiteState(models.TextChoices):
    """What an operator wants of a site. That it is lost is no wish: see SiteHealth."""

    ACTIVE = "active", _("active")
    CORDONED = "cordoned", _("cordoned")
    DRAINED = "drained", _("drained")
    RETIRED = "retired", _("retired")  # for good: it is history alone


class Site(models.Model):
    """A datacenter in one jurisdiction, with its own broker, stream store and sealing key."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    slug = models.CharField(max_length=63, unique=True, validators=[SLUG])
    name = models.CharField(max_length=200)
    jurisdiction = models.CharField(
        max_length=2,
        validators=[RegexValidator(r"^[A-Z]{2}$", _("Use the two capital letters of ISO 3166-1, such as FR."))],
    )
    zone = models.CharField(max_length=63, blank=True, default="", validators=[SLUG])  # of the organisation's network
    broker_url_sealed = models.BinaryField()  # holds a password
    store_url_sealed = models.BinaryField(default=b"", blank=True)  # the same; empty: the broker is the store too
    sealing_public_key = models.BinaryField(max_length=32)  # X25519, raw: that of its current SiteKey
    state = models.CharField(max_length=10, choices=SiteState.choices, default=SiteState.ACTIVE)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.slug

    @property
    def fact(self) -> SiteFact:
        """What a decision needs of it."""
        return SiteFact(self.id, self.slug, self.jurisdiction, self.zone)


class SiteLife(models.TextChoices):
    """What housekeeping finds when it looks at a site."""

    UNKNOWN = "unknown", _("not looked at yet")
    EMPTY = "empty", _("no worker has joined")
    LIVE = "live", _("live")
    LOST = "lost", _("lost: no worker is heard")
    UNREACHABLE = "unreachable", _("unreachable: its store or broker is away")


class SiteHealth(models.Model):
    """What the last look at a site found; written by housekeeping alone, in a table that announces nothing.

    `broker_state` and `store_state` are "ok" or the class of the error: an error's message may hold an address.
    """

    site = models.OneToOneField(Site, primary_key=True, on_delete=models.CASCADE, related_name="health")
    life = models.CharField(max_length=12, choices=SiteLife.choices, default=SiteLife.UNKNOWN)
    since = models.DateTimeField(null=True)  # of `life`
    broker_state = models.CharField(max_length=60, blank=True, default="")
    store_state = models.CharField(max_length=60, blank=True, default="")
    checked_at = models.DateTimeField(null=True)
    workers = models.PositiveIntegerField(default=0)  # that may take jobs
    alive = models.PositiveIntegerField(default=0)  # of those, heard of within seconds
    capacity = models.PositiveIntegerField(default=0)  # jobs that those can run at once
    running = models.PositiveIntegerField(default=0)
    troubles = models.JSONField(default=list)  # what is wrong with its workers, in words


class PolicyState(models.TextChoices):
    """Life of a version: draft, requested, approved, active, superseded; or ended before it was active."""

    DRAFT = "draft", _("draft")
    REQUESTED = "requested", _("requested")  # waits for a second person
    APPROVED = "approved", _("approved")  # waits for its time
    ACTIVE = "active", _("active")
    SUPERSEDED = "superseded", _("superseded")
    REJECTED = "rejected", _("rejected")
    WITHDRAWN = "withdrawn", _("withdrawn")
    EXPIRED = "expired", _("expired")


def second_person(subject: str) -> list[models.BaseConstraint]:
    """What the database itself holds of the rule of two people, for the versions of `subject`.

    Whoever reviews a version is neither its author nor who asked for it; and what needs approval comes no further
    than its request without both of them. `bootstrap` is the one exception, the first version of an installation.
    """
    reviewed, met = models.F("reviewed_by"), models.Q(reviewed_by__isnull=False, requested_by__isnull=False)
    early = models.Q(state__in=["draft", "requested", "rejected", "withdrawn", "expired"])
    return [
        models.CheckConstraint(
            condition=models.Q(reviewed_by__isnull=True)
            | models.Q(requested_by__isnull=True)
            | ~models.Q(requested_by=reviewed),
            name=f"{subject}_reviewed_by_another_than_asked",
        ),
        models.CheckConstraint(
            condition=models.Q(reviewed_by__isnull=True)
            | models.Q(created_by__isnull=True)
            | ~models.Q(created_by=reviewed),
            name=f"{subject}_reviewed_by_another_than_wrote",
        ),
        models.CheckConstraint(
            condition=models.Q(needs_approval=False) | models.Q(bootstrap=True) | met | early,
            name=f"{subject}_approved_where_needed",
        ),
        models.CheckConstraint(
            condition=models.Q(bootstrap=False)
            | models.Q(compared_version=0, requested_by__isnull=True, created_by__isnull=True),
            name=f"{subject}_bootstrap_by_nobody_over_nothing",
        ),
    ]


def digest_of(document: object) -> str:
    """SHA-256 of the canonical form, hex. Raises NotCanonical."""
    return hashlib.sha256(canonical.dumps(document)).hexdigest()


def intact(document: object, digest: str) -> bool:
    """Whether a document is still the one that `digest` was made of."""
    try:
        return digest_of(document) == digest
    except canonical.NotCanonical:
        return False


class PolicyVersion(models.Model):
    """One version of a policy. What it says is never changed; its state is, each step by a service with its event."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    version = models.PositiveIntegerField()
    document = models.JSONField()
    source = models.TextField(blank=True, default="")  # the text it was given as, comments and all
    digest = models.CharField(max_length=64)  # SHA-256 of the canonical document, hex
    state = models.CharField(max_length=20, choices=PolicyState.choices, default=PolicyState.DRAFT)
    created_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    # Of the request: what it would loosen, compared with which version, and until when it may be approved.
    findings = models.JSONField(default=list)  # [{what, message, example}]
    needs_approval = models.BooleanField(default=False)
    compared_version = models.PositiveIntegerField(default=0)  # 0: with no version at all
    compared_digest = models.CharField(max_length=64, blank=True, default="")
    requested_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    requested_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    activate_at = models.DateTimeField(null=True, blank=True)
    # Of the second person: who approved or rejected it. `reason`: why it was rejected or sent back.
    reviewed_by = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    reviewed_at = models.DateTimeField(null=True, blank=True)
    reason = models.CharField(max_length=500, blank=True, default="")
    bootstrap = models.BooleanField(default=False)  # the installation's own first version, which nobody approved
    activated_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        abstract = True

    @property
    def comparison(self) -> str:
        """What an approval is bound to: SHA-256 of document, compared version and findings; "" before a request."""
        if self.requested_at is None:
            return ""
        bound = {"document": self.digest, "compared": self.compared_digest, "findings": self.findings}
        return digest_of(bound)


class Policy(PolicyVersion):
    """One version of a tenant's residency policy; every version is kept, one is active."""

    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="policies")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "version"], name="policy_version_once_a_tenant"),
            models.UniqueConstraint(
                fields=["tenant"], condition=models.Q(state="active"), name="one_active_policy_a_tenant"
            ),
            models.UniqueConstraint(
                fields=["tenant"], condition=models.Q(bootstrap=True), name="policy_bootstrap_once_a_tenant"
            ),
            *second_person("policy"),
        ]


class BaselinePolicy(PolicyVersion):
    """One version of the platform's baseline, which no tenant's policy can widen; it belongs to no tenant."""

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["version"], name="baseline_version_once"),
            models.UniqueConstraint(fields=["state"], condition=models.Q(state="active"), name="one_active_baseline"),
            models.UniqueConstraint(
                fields=["bootstrap"], condition=models.Q(bootstrap=True), name="baseline_bootstrap_once"
            ),
            *second_person("baseline"),
        ]
