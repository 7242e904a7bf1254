"""Usage as the server counted it, and limits."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _

from kasbah.common.ids import uuid7
from kasbah.identity.models import ApiKey, Project, Tenant


class Usage(models.Model):
    """Tokens of one job, aborted ones included. `exact` is false where the engine could not be asked."""

    id = models.UUIDField(primary_key=True, editable=False)  # the job's id: settled once
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="+")
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="+")
    deployment = models.CharField(max_length=63)  # public model name, kept when the deployment is gone
    endpoint = models.CharField(max_length=40)
    prompt_tokens = models.PositiveIntegerField()
    completion_tokens = models.PositiveIntegerField()
    exact = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [models.Index(fields=["tenant", "created_at"], name="usage_tenant_time")]


class LimitScope(models.TextChoices):
    """To whom a limit applies."""

    TENANT = "tenant", _("tenant")
    PROJECT = "project", _("project")
    API_KEY = "api_key", _("API key")


class Period(models.TextChoices):
    """Over which time a quota counts (UTC)."""

    DAY = "day", _("day")
    MONTH = "month", _("month")


class Limit(models.Model):
    """Burst limits a minute and a quota of tokens a period; null means none. `subject_id` is the scope's object."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="limits")
    scope = models.CharField(max_length=10, choices=LimitScope.choices)
    subject_id = models.UUIDField()
    requests_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_minute = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_period = models.PositiveBigIntegerField(null=True, blank=True)
    period = models.CharField(max_length=10, choices=Period.choices, default=Period.MONTH)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["scope", "subject_id"], name="one_limit_a_subject")]
