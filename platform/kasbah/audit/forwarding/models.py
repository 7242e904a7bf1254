"""Where events are forwarded to, and how far each log has got there."""

from __future__ import annotations

from django.core.validators import RegexValidator
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from kasbah.audit.log.models import Log
from kasbah.common.ids import uuid7

NAME = RegexValidator(r"^[a-z0-9][a-z0-9-]{0,62}\Z", _("Use lower-case letters, digits and hyphens, such as soc."))


class Kind(models.TextChoices):
    """How a destination is spoken to."""

    SYSLOG_TLS = "syslog_tls", _("syslog over TLS (RFC 5424, 5425)")
    OCSF_HTTPS = "ocsf_https", _("OCSF over HTTPS, one JSON object a line")


class Forwarder(models.Model):
    """One destination, which a platform administrator set up: of every log, or of one tenant's alone."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField(null=True, blank=True)  # whose log; null: every log. No foreign key, as in the logs
    name = models.CharField(max_length=63, unique=True, validators=[NAME])
    kind = models.CharField(max_length=12, choices=Kind.choices)
    address = models.CharField(max_length=500)  # host:port, or an https:// URL
    ca_certificate = models.TextField()  # PEM: who may have signed the receiver's certificate, and nobody else
    client_certificate = models.TextField(blank=True, default="")  # PEM
    client_key_sealed = models.BinaryField(default=b"", blank=True)
    header_name = models.CharField(max_length=100, blank=True, default="")
    header_value_sealed = models.BinaryField(default=b"", blank=True)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(db_default=Now())
    sent = models.PositiveBigIntegerField(default=0)  # events that were taken
    pruned = models.PositiveBigIntegerField(default=0)  # events that were pruned before they could be sent
    failures = models.PositiveIntegerField(default=0)  # in a row
    retry_at = models.DateTimeField(null=True, blank=True)
    last_error = models.CharField(max_length=500, blank=True, default="")  # empty: the last try succeeded
    last_error_at = models.DateTimeField(null=True, blank=True)
    last_success_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "audit_forwarder"

    def __str__(self) -> str:
        return self.name


class ForwarderPosition(models.Model):
    """How many leaves of a log, from its first on, a destination has taken; without a row none."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant_id = models.UUIDField(null=True)  # the log's
    forwarder = models.ForeignKey(Forwarder, on_delete=models.CASCADE, related_name="positions")
    log = models.ForeignKey(Log, on_delete=models.PROTECT, related_name="+")
    taken = models.PositiveBigIntegerField(default=0)

    class Meta:
        db_table = "audit_forwarderposition"
        constraints = [models.UniqueConstraint(fields=["forwarder", "log"], name="one_position_a_log")]
