"""Deployments, workers, enrolment tokens and jobs."""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from kasbah.common.ids import uuid7
from kasbah.identity.models import SLUG, ApiKey, DataClass, Project, Tenant
from kasbah.registry.models import ModelVersion
from kasbah.residency.models import Site


class Deployment(models.Model):
    """A model version served under a public name at some sites, with engine settings (contract.EngineSettings)."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(max_length=63, unique=True, validators=[SLUG])
    model_version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="deployments")
    sites = models.ManyToManyField(Site, related_name="deployments")
    engine_settings = models.JSONField(default=dict)
    enabled = models.BooleanField(default=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name


class DeploymentGrant(models.Model):
    """Says that a tenant may use a deployment; without it the model does not exist for that tenant."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="grants")
    deployment = models.ForeignKey(Deployment, on_delete=models.CASCADE, related_name="grants")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["tenant", "deployment"], name="one_grant_a_tenant")]


class WorkerState(models.TextChoices):
    """What the control plane wants of a worker, and whether it hears from it."""

    PENDING = "pending", _("waits for approval")
    ENROLLED = "enrolled", _("enrolled")
    CORDONED = "cordoned", _("cordoned")
    DRAINED = "drained", _("drained")
    LOST = "lost", _("lost")
    REVOKED = "revoked", _("revoked")


LOST_AFTER = timedelta(seconds=15)
UNHEARD = (WorkerState.PENDING, WorkerState.REVOKED)  # nothing that these say is believed


class Worker(models.Model):
    """An inference worker node at one site, known by its Ed25519 identity key."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    site = models.ForeignKey(Site, on_delete=models.PROTECT, related_name="workers")
    name = models.CharField(max_length=63)
    public_key = models.BinaryField(max_length=32, unique=True)
    box_key = models.BinaryField(max_length=32)  # X25519: what is sealed for this worker
    state = models.CharField(max_length=10, choices=WorkerState.choices, default=WorkerState.PENDING)
    engine = models.CharField(max_length=60, blank=True, default="")
    hardware = models.JSONField(default=dict)
    served = models.JSONField(default=list)  # contract.Served of the last report
    start = models.CharField(max_length=32, blank=True, default="")  # names its process, whose counters these are
    answered = models.PositiveBigIntegerField(default=0)
    refused = models.PositiveBigIntegerField(default=0)
    stale_writes = models.PositiveBigIntegerField(default=0)
    egress_refused = models.PositiveBigIntegerField(default=0)
    egress = models.JSONField(default=list)  # contract.Egress of the last report: the latest destinations
    trusted_keys = models.JSONField(default=list)  # ids of the control plane's keys that it says it believes
    held_keys = models.JSONField(default=list)  # ids of the site's keys that it says it has
    clock_offset = models.BigIntegerField(default=0)  # seconds ahead of the control plane's; 0: within the tolerance
    starts = models.JSONField(default=list)  # [name of a start, time of its first report], the current one first
    troubles = models.JSONField(default=list)  # what is wrong with it (housekeeping.troubles), for people
    refusal_time = models.PositiveBigIntegerField(default=0)  # of its last believed refusal that names no job
    refusal_marks = models.JSONField(default=list)  # of those of that second
    must_rotate = models.BooleanField(default=False)  # asked to replace its identity key
    assignment_revision = models.PositiveBigIntegerField(default=0)
    last_seen_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["site", "name"], name="worker_name_once_a_site")]

    @property
    def alive(self) -> bool:
        """Whether it was heard lately; a report a second is what it sends."""
        heard = self.last_seen_at
        return self.state not in UNHEARD and heard is not None and timezone.now() - heard < LOST_AFTER

    @property
    def capacity(self) -> int:
        """Jobs that its ready engines run at once, as it last said."""
        ready = [served for served in self.served if served["state"] == "ready"] if self.alive else []
        return sum(served.get("capacity", 0) for served in ready)


class FormerWorkerKey(models.Model):
    """An identity key that a worker has replaced: receipts of its time still hold, new signatures do not.

    `valid_until` is a little after the hand-over: until then the worker may not know yet that its new key counts.
    """

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    worker = models.ForeignKey(Worker, on_delete=models.PROTECT, related_name="former_keys")
    public_key = models.BinaryField(max_length=32, unique=True)
    valid_from = models.DateTimeField()
    valid_until = models.DateTimeField()


class Reconciliation(models.Model):
    """A worker's answers as it counts them beside those on record, since its process was first seen."""

    worker = models.OneToOneField(Worker, primary_key=True, on_delete=models.CASCADE, related_name="+")
    start = models.CharField(max_length=32)
    base = models.PositiveBigIntegerField()  # answers that it had counted by then
    answered = models.PositiveBigIntegerField()  # that it had counted at `said_at`
    said_at = models.DateTimeField()
    recorded = models.PositiveBigIntegerField(default=0)  # outcomes until `compared_to`
    compared_to = models.DateTimeField()
    missing = models.PositiveBigIntegerField(default=0)  # answers of which there is no record


class EnrolmentToken(models.Model):
    """A one-time token with which a worker joins a site; its secret lies sealed."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    site = models.ForeignKey(Site, on_delete=models.PROTECT, related_name="enrolment_tokens")
    secret_sealed = models.BinaryField()
    expires_at = models.DateTimeField()
    preapproved = models.BooleanField(default=False)  # whoever joins with it needs no approval
    used_by = models.OneToOneField(Worker, null=True, on_delete=models.PROTECT, related_name="enrolment_token")
    created_at = models.DateTimeField(auto_now_add=True)


class JobState(models.TextChoices):
    """Life of a job. Terminal: succeeded, failed, cancelled, refused."""

    QUEUED = "queued", _("queued")
    RUNNING = "running", _("running")
    SUCCEEDED = "succeeded", _("succeeded")
    FAILED = "failed", _("failed")
    CANCELLED = "cancelled", _("cancelled")
    REFUSED = "refused", _("refused")


TERMINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.REFUSED)


class Job(models.Model):
    """One inference request. `attempt` fences: only what the current attempt says counts."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="+")
    api_key = models.ForeignKey(ApiKey, on_delete=models.PROTECT, related_name="+")
    deployment = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="+")
    request_id = models.CharField(max_length=64, unique=True)
    endpoint = models.CharField(max_length=40)
    stream = models.BooleanField()
    data_class = models.CharField(max_length=20, choices=DataClass.choices)
    policy = models.CharField(max_length=60)  # "<policy id>@<version>"
    sites = models.JSONField()  # ids of the compliant sites; no retry leaves them
    state = models.CharField(max_length=10, choices=JobState.choices, default=JobState.QUEUED)
    attempt = models.PositiveIntegerField(default=1)
    site = models.ForeignKey(Site, null=True, on_delete=models.PROTECT, related_name="+")  # of the current attempt
    worker_id = models.UUIDField(null=True)
    owner = models.CharField(max_length=64)  # web process that relays the answer
    lease_until = models.DateTimeField()
    payload = models.BinaryField(null=True)  # sealed to the sites; emptied when the job ends
    prompt_tokens = models.PositiveIntegerField(default=0)
    completion_tokens = models.PositiveIntegerField(default=0)
    error_code = models.CharField(max_length=60, blank=True, default="")
    ticket = models.TextField(blank=True, default="")  # the signed token of the current attempt
    receipt = models.TextField(blank=True, default="")  # the worker's signed token
    refused_attempt = models.PositiveIntegerField(default=0, db_default=0)  # of which a refusal is on record
    replayed_attempt = models.PositiveIntegerField(default=0, db_default=0)  # of which a replay is on record
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["lease_until"],
                condition=models.Q(state__in=["queued", "running"]),
                name="job_unfinished_lease",
            ),
            models.Index(fields=["tenant", "created_at"], name="job_tenant_time"),
        ]


class IdempotencyKey(models.Model):
    """The first request under a key of a client: the same body gives its answer again, another body 422."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.ForeignKey(Tenant, on_delete=models.PROTECT, related_name="+")
    api_key = models.ForeignKey(ApiKey, on_delete=models.CASCADE, related_name="+")
    key_digest = models.BinaryField(max_length=32)  # SHA-256: a client may put anything into the header
    body_digest = models.BinaryField(max_length=32)
    job_id = models.UUIDField()
    response_sealed = models.BinaryField(null=True)  # the whole answer, under the key-encryption key; goes with content
    status = models.PositiveSmallIntegerField(null=True)
    expires_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["api_key", "key_digest"], name="idempotency_key_once")]
        indexes = [models.Index(fields=["job_id"], name="idempotency_key_job")]
