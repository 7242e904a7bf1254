"""Jobs of a tenant, and the receipts that workers signed for them."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.access import AUTHENTICATED
from kasbah.common.api import ListMixin, ManagementView, RetrieveMixin, StrictSerializer
from kasbah.common.errors import NotFound
from kasbah.common.references import ReferenceField
from kasbah.common.times import PeriodMixin, TimeField
from kasbah.identity.models import DataClass
from kasbah.serving import services
from kasbah.serving.models import Job, JobState


class JobShown(serializers.ModelSerializer[Job]):
    """One inference request: where it went and how it ended; never its content."""

    model = serializers.CharField(source="deployment.name", read_only=True)
    site = serializers.CharField(source="site.slug", default=None, read_only=True, help_text="Slug.")
    sites = serializers.ListField(child=serializers.CharField(), read_only=True, help_text="Ids of compliant sites.")

    class Meta:
        model = Job
        fields = [
            "id", "request_id", "project", "api_key", "model", "endpoint", "stream", "data_class", "policy", "sites",
            "state", "attempt", "site", "worker_id", "prompt_tokens", "completion_tokens", "error_code", "receipt",
            "created_at", "finished_at",
        ]  # fmt: skip


class JobFilters(PeriodMixin, StrictSerializer):
    """Query parameters."""

    state = serializers.ChoiceField(JobState.choices, required=False)
    project = ReferenceField("identity.Project", required=False)
    api_key = serializers.UUIDField(required=False)
    request_id = serializers.CharField(required=False, max_length=64)
    model = serializers.CharField(required=False, max_length=63, source="deployment__name")
    data_class = serializers.ChoiceField(DataClass.choices, required=False)
    site = serializers.CharField(required=False, max_length=63, source="site__slug")
    since = TimeField(required=False, source="created_at__gte")
    until = TimeField(required=False, source="created_at__lt")


class JobViewSet(ListMixin, RetrieveMixin):
    """Inference requests of a tenant."""

    queryset = Job.objects.select_related("deployment", "site").defer("payload")
    serializer_class = JobShown
    filters = JobFilters
    access: ClassVar = {"list": "job.read", "retrieve": "job.read"}


class ReceiptWorker(serializers.Serializer[Any]):
    """Who signed."""

    id = serializers.UUIDField()
    name = serializers.CharField()
    public_key = serializers.CharField(help_text="Ed25519, raw, base64url: verifies `receipt`.")
    key_valid_until = serializers.DateTimeField(allow_null=True, help_text="Of a key that it has replaced since.")


class ReceiptSite(serializers.Serializer[Any]):
    """Where it was processed."""

    id = serializers.UUIDField()
    slug = serializers.CharField()
    jurisdiction = serializers.CharField()


class ReceiptCheck(serializers.Serializer[Any]):
    """What the platform itself compared when it was asked."""

    name = serializers.CharField(
        help_text="receipt_signature, ticket_signature, receipt_keeps_to_ticket or receipt_of_this_request."
    )
    holds = serializers.BooleanField()
    reason = serializers.CharField(allow_blank=True, help_text="Why it does not hold.")


class ReceiptShown(serializers.Serializer[Any]):
    """The proof of where and by what a request was processed."""

    request_id = serializers.CharField()
    job = serializers.UUIDField()
    purpose = serializers.CharField(help_text="Signed bytes are this, a line feed, and the receipt's second part.")
    receipt = serializers.CharField(help_text="key id . payload . signature, each but the first base64url.")
    ticket = serializers.CharField(help_text="What the control plane permitted: the receipt names its SHA-256.")
    checks = ReceiptCheck(many=True, help_text="A receipt that was altered is shown, with the check that fails.")
    claims = serializers.DictField(
        help_text="The payload, for reading; the signature is over its exact bytes. Empty where it does not hold."
    )
    site = ReceiptSite()
    worker = ReceiptWorker()
    control_plane_keys = serializers.DictField(
        child=serializers.CharField(), help_text="Ed25519 keys that sign tickets and audit receipts, base64url."
    )


class ReceiptView(ManagementView):
    """The signed receipt of one request of the caller's own tenants."""

    # The path names no tenant: services.find_receipt requires receipt.read of the request's own.
    access: ClassVar = {"get": AUTHENTICATED}

    @extend_schema(responses=ReceiptShown)
    def get(self, request: Request, request_id: str) -> Response:
        """The receipt under the `x-request-id` of the inference answer, and the keys that verify it."""
        try:
            found = services.find_receipt(self.actor, request_id)
        except NotFound as error:
            raise exceptions.NotFound from error  # the same bytes, whatever the reason
        if found is None:
            raise exceptions.NotFound
        return Response(ReceiptShown(found).data)
