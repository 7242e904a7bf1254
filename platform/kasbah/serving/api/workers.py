"""Workers, and the tokens with which they join a site."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from django.db import models
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from inference_worker.contract.signing import b64, fingerprint
from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.common.references import ReferenceField
from kasbah.residency.models import Site
from kasbah.serving import services
from kasbah.serving.models import EnrolmentToken, FormerWorkerKey, Worker, WorkerState


class ServedShown(serializers.Serializer[Any]):
    """What a worker says of one deployment."""

    deployment = serializers.CharField()
    model_digest = serializers.CharField()
    state = serializers.CharField(help_text="verifying, starting, ready, failed or stopping.")
    running = serializers.IntegerField(required=False)
    capacity = serializers.IntegerField(required=False)
    detail = serializers.CharField(required=False, allow_blank=True)


class EgressShown(serializers.Serializer[Any]):
    """Connections to one destination that a worker or its engine was refused since its start."""

    process = serializers.CharField(help_text="worker or engine.")
    destination = serializers.CharField(help_text="host:port, or name:dns for a look-up.")
    count = serializers.IntegerField()
    first = serializers.IntegerField(help_text="Seconds since the epoch.")
    last = serializers.IntegerField(help_text="Seconds since the epoch.")


class TroubleShown(serializers.Serializer[Any]):
    """Something that is wrong with a worker."""

    code = serializers.CharField(help_text="clock, report, worker, engine, duplicate, stray or refuses.")
    text = serializers.CharField(help_text="What it is, and the way out.")
    since = serializers.IntegerField(help_text="Seconds since the epoch.")
    seen = serializers.IntegerField(help_text="Seconds since the epoch; when it was last found.")


class FormerKeyShown(serializers.ModelSerializer[FormerWorkerKey]):
    """A key that the worker has replaced: receipts of its time still verify."""

    public_key = serializers.SerializerMethodField(help_text="Ed25519, raw, base64url.")

    class Meta:
        model = FormerWorkerKey
        fields = ["public_key", "valid_from", "valid_until"]

    def get_public_key(self, key: FormerWorkerKey) -> str:
        """Text of the key."""
        return b64(bytes(key.public_key))


class WorkerShown(serializers.ModelSerializer[Worker]):
    """An inference worker node."""

    public_key = serializers.SerializerMethodField(help_text="Ed25519, raw, base64url: verifies its receipts.")
    fingerprint = serializers.SerializerMethodField(help_text="Of the key, as the worker's log shows it.")
    alive = serializers.SerializerMethodField(help_text="Whether it was heard within the last 15 seconds.")
    capacity = serializers.SerializerMethodField(help_text="Jobs that its ready engines run at once.")
    former_keys = FormerKeyShown(many=True, read_only=True)
    served = ServedShown(many=True, read_only=True)
    egress = EgressShown(many=True, read_only=True)
    troubles = TroubleShown(many=True, read_only=True)
    hardware = serializers.DictField(read_only=True)

    class Meta:
        model = Worker
        fields = [
            "id", "site", "name", "state", "alive", "engine", "capacity", "public_key", "fingerprint", "former_keys",
            "hardware", "served", "troubles", "clock_offset", "refused", "stale_writes", "egress_refused", "egress",
            "last_seen_at", "created_at",
        ]  # fmt: skip

    def get_public_key(self, worker: Worker) -> str:
        """Text of the key."""
        return b64(bytes(worker.public_key))

    def get_fingerprint(self, worker: Worker) -> str:
        """What people compare."""
        return fingerprint(bytes(worker.public_key))

    def get_alive(self, worker: Worker) -> bool:
        """By its last report."""
        return worker.alive

    def get_capacity(self, worker: Worker) -> int:
        """By its last report."""
        return worker.capacity


class WorkerFilters(StrictSerializer):
    """Query parameters."""

    site = ReferenceField("residency.Site", required=False)
    state = serializers.ChoiceField(WorkerState.choices, required=False)
    name = serializers.CharField(required=False, max_length=63)


class Approval(StrictBody):
    """What the approver has compared."""

    fingerprint = serializers.CharField(
        max_length=60, required=False, help_text="As the machine's log shows it; another one is refused."
    )


class WorkerViewSet(ListMixin, RetrieveMixin):
    """Inference worker nodes, known by their identity keys. A worker comes into being when it enrols."""

    queryset = Worker.objects.prefetch_related("former_keys")
    serializer_class = WorkerShown
    filters = WorkerFilters
    access: ClassVar = {
        "list": "worker.read",
        "retrieve": "worker.read",
        "approve": "worker.manage",
        "reject": "worker.manage",
        "cordon": "worker.manage",
        "drain": "worker.manage",
        "resume": "worker.manage",
        "revoke": "worker.manage",
        "rotate_key": "worker.manage",
    }

    @extend_schema(request=Approval)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, pk: UUID) -> Response:
        """Let a worker in that waits: it gets the site's key, its assignment and jobs."""
        services.approve_worker(self.actor, self.find(), expected=self.body(Approval).get("fingerprint", ""))
        return self.shown(self.find())

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def reject(self, request: Request, pk: UUID) -> Response:
        """Never let a worker in that waits."""
        services.reject_worker(self.actor, self.find())
        return self.shown(self.find())

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def cordon(self, request: Request, pk: UUID) -> Response:
        """Send it nothing new; what runs ends, and its engines stay."""
        services.cordon_worker(self.actor, self.find())
        return self.shown(self.find())

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def drain(self, request: Request, pk: UUID) -> Response:
        """Send it nothing new, and stop its engines when what runs has ended."""
        services.drain_worker(self.actor, self.find())
        return self.shown(self.find())

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def resume(self, request: Request, pk: UUID) -> Response:
        """Send to a cordoned or drained worker again."""
        services.resume_worker(self.actor, self.find())
        return self.shown(self.find())

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, pk: UUID) -> Response:
        """Never again: its reports and receipts are refused. It cannot be undone."""
        services.revoke_worker(self.actor, self.find())
        return self.shown(self.find())

    @extend_schema(request=None)
    @action(detail=True, methods=["post"], url_path="rotate-key")
    def rotate_key(self, request: Request, pk: UUID) -> Response:
        """Ask it to replace its identity key. Receipts under the old one still verify."""
        services.ask_rotation(self.actor, self.find())
        return self.shown(self.find())


class TokenShown(serializers.ModelSerializer[EnrolmentToken]):
    """A one-time token, without its secret."""

    class Meta:
        model = EnrolmentToken
        fields = ["id", "site", "preapproved", "expires_at", "used_by", "created_at"]


class TokenIssued(TokenShown):
    """A new token with its secret."""

    token = serializers.CharField(read_only=True, help_text="For `--enrol`. It is shown this once.")

    class Meta(TokenShown.Meta):
        fields = [*TokenShown.Meta.fields, "token"]


class TokenCreate(StrictBody):
    """Where a worker is to join."""

    site = ReferenceField("residency.Site")
    preapproved = serializers.BooleanField(
        default=False, help_text="True: the worker is let in without an approval; for automation."
    )


class TokenFilters(StrictSerializer):
    """Query parameters."""

    site = ReferenceField("residency.Site", required=False)
    usable = serializers.BooleanField(required=False, help_text="True: neither used nor expired.")


class EnrolmentTokenViewSet(ListMixin, RetrieveMixin):
    """One-time tokens with which workers join a site."""

    queryset = EnrolmentToken.objects.all()
    serializer_class = TokenShown
    filters = TokenFilters
    access: ClassVar = {"list": "worker.read", "retrieve": "worker.read", "create": "worker.manage"}

    def filtered(self, queryset: models.QuerySet[Any], filters: dict[str, Any]) -> models.QuerySet[Any]:
        """`usable` is no column."""
        usable = filters.pop("usable", None)
        if usable is not None:
            condition = models.Q(used_by=None, expires_at__gt=timezone.now())
            queryset = queryset.filter(condition if usable else ~condition)
        return super().filtered(queryset, filters)

    @extend_schema(request=TokenCreate, responses={201: TokenIssued})
    def create(self, request: Request) -> Response:
        """Issue a token. Its secret is in this answer and never again."""
        wanted = self.body(TokenCreate)
        site = Site.objects.filter(pk=wanted["site"]).first()
        if site is None:
            raise serializers.ValidationError({"site": "There is no such site."})
        issued = services.create_enrolment_token(self.actor, site, preapproved=wanted["preapproved"])
        return Response(self.get_serializer(issued.row).data | {"token": issued.text}, status=201)
