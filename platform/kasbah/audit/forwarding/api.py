"""Destinations of forwarding, for platform administrators. Secrets go in and never come out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.audit.forwarding import sending
from kasbah.audit.forwarding.models import NAME, Forwarder, Kind
from kasbah.audit.services import forwarding
from kasbah.common import rls
from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer

UNSHOWN = "{} It is kept sealed and never shown."
HELP = {
    "address": "host:port for syslog_tls, an https:// URL for ocsf_https. KASBAH_EGRESS_ALLOW must have it too.",
    "ca_certificate": "PEM: the authority that signed the receiver's certificate. No other is trusted.",
    "client_certificate": "PEM, where the receiver asks for one.",
    "client_key": UNSHOWN.format("PEM: the key of the client certificate."),
    "header_name": "ocsf_https only: a header that is sent along, such as Authorization.",
    "header_value": UNSHOWN.format("Its value, such as 'Splunk TOKEN'."),
}


class ForwarderShown(serializers.ModelSerializer[Forwarder]):
    """A destination, and how far it is."""

    tenant = serializers.UUIDField(source="tenant_id", allow_null=True, help_text="Whose log; null: every log.")
    has_client_key = serializers.SerializerMethodField()
    has_header_value = serializers.SerializerMethodField()
    waiting = serializers.SerializerMethodField(help_text="Events that it has not taken yet.")

    class Meta:
        model = Forwarder
        exclude = ["tenant_id", "client_key_sealed", "header_value_sealed"]

    def get_has_client_key(self, row: Forwarder) -> bool:
        """Whether one was given."""
        return bool(row.client_key_sealed)

    def get_has_header_value(self, row: Forwarder) -> bool:
        """Whether one was given."""
        return bool(row.header_value_sealed)

    def get_waiting(self, row: Forwarder) -> int:
        """Its lag."""
        return sending.waiting(row)


def _text(field: str, most: int, **options: Any) -> serializers.CharField:
    return serializers.CharField(max_length=most, help_text=HELP[field], **options)


class ForwarderChange(StrictBody):
    """What may change; what is empty is taken away."""

    name = serializers.CharField(max_length=63, validators=[NAME])
    address = _text("address", 500)
    ca_certificate = _text("ca_certificate", 100_000)
    client_certificate = _text("client_certificate", 100_000, allow_blank=True, required=False)
    client_key = _text("client_key", 20_000, allow_blank=True, required=False, write_only=True)
    header_name = _text("header_name", 100, allow_blank=True, required=False)
    header_value = _text("header_value", 4096, allow_blank=True, required=False, write_only=True)


class ForwarderCreate(ForwarderChange):
    """A new destination."""

    kind = serializers.ChoiceField(Kind.choices)
    tenant = serializers.UUIDField(
        source="tenant_id", required=False, allow_null=True, help_text="Forward this tenant's log alone."
    )
    from_start = serializers.BooleanField(
        required=False, help_text="Send what the logs have already; else from now on (false)."
    )


class ForwarderFilters(StrictSerializer):
    """Query parameters."""

    name = serializers.CharField(required=False, max_length=63)
    enabled = serializers.BooleanField(required=False, allow_null=True, default=None)


class TriedShown(serializers.Serializer[forwarding.Tried]):
    """What came of a trial."""

    taken = serializers.BooleanField()
    message = serializers.CharField()


class ForwarderViewSet(ListMixin, RetrieveMixin):
    """Where the audit log is forwarded to as it grows."""

    queryset = Forwarder.objects.all()
    serializer_class = ForwarderShown
    filters = ForwarderFilters
    access: ClassVar = {
        "list": "forwarder.read",
        "retrieve": "forwarder.read",
        "create": "forwarder.manage",
        "partial_update": "forwarder.manage",
        "destroy": "forwarder.manage",
        "enable": "forwarder.manage",
        "disable": "forwarder.manage",
        "test": "forwarder.manage",
    }

    @contextmanager
    def scope(self) -> Iterator[None]:
        """They are the platform's. A trial waits for another machine, and holds no transaction meanwhile."""
        if self.action == "test":
            yield
        else:
            with rls.platform_scope():
                yield

    def filtered(self, queryset: Any, filters: dict[str, Any]) -> Any:
        """What the query parameters leave."""
        return queryset.filter(**{name: value for name, value in filters.items() if value is not None})

    @extend_schema(request=ForwarderCreate, responses={201: ForwarderShown})
    def create(self, request: Request) -> Response:
        """Add a destination; it is sent to at once."""
        return self.shown(forwarding.create_forwarder(self.actor.ref, **self.body(ForwarderCreate)), 201)

    @extend_schema(request=ForwarderChange)
    def partial_update(self, request: Request, pk: UUID) -> Response:
        """Change a destination; its positions stay."""
        found = self.find()
        fields = self.body(ForwarderChange, partial=True)
        return self.shown(forwarding.change_forwarder(self.actor.ref, found, **fields))

    def destroy(self, request: Request, pk: UUID) -> Response:
        """Remove a destination, with its positions."""
        forwarding.remove_forwarder(self.actor.ref, self.find())
        return Response(status=204)

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def enable(self, request: Request, pk: UUID) -> Response:
        """Go on where it stopped."""
        return self.shown(forwarding.enable_forwarder(self.actor.ref, self.find()))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def disable(self, request: Request, pk: UUID) -> Response:
        """Send nothing more; positions stay, and nothing is lost."""
        return self.shown(forwarding.disable_forwarder(self.actor.ref, self.find()))

    @extend_schema(request=None, responses={200: TriedShown})
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: UUID) -> Response:
        """Send one message now, and say what came of it; at most some seconds."""
        with rls.platform_scope():
            found = self.find()
        return Response(TriedShown(forwarding.try_forwarder(self.actor.ref, found)).data)
