"""The transparency log: its newest checkpoint, and proofs. They hold hashes and nothing about anybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.audit.log import proofs
from kasbah.audit.log.note import lines_of
from kasbah.common import rls
from kasbah.common.api import ManagementView, StrictSerializer
from kasbah.common.numbers import LARGEST_SIZE
from kasbah.common.queries import NumberField, read_parameters


class HeadShown(serializers.Serializer[Any]):
    """How far the log is."""

    origin = serializers.CharField(help_text="The log's name.")
    key = serializers.CharField(help_text="Its public key as a vkey (C2SP signed-note).")
    successions = serializers.ListField(
        child=serializers.CharField(), help_text="Notes by which an earlier key handed over, the oldest first."
    )
    size = serializers.IntegerField(help_text="Events that have their place.")
    checkpoint = serializers.CharField(help_text="The newest signed checkpoint (C2SP tlog-checkpoint); empty: none.")
    signed_at = serializers.DateTimeField(allow_null=True)
    waiting = serializers.IntegerField(help_text="Committed events that have no place yet; normally gone in a second.")


class InclusionShown(serializers.Serializer[Any]):
    """The proof that an event is in the log."""

    event = serializers.UUIDField()
    index = serializers.IntegerField()
    leaf_hash = serializers.SerializerMethodField(help_text="SHA-256 over 0x00 and the event's bytes, hex.")
    proof = serializers.CharField(source="text", help_text="The content of a .tlog-proof file (C2SP tlog-proof).")

    def get_leaf_hash(self, found: proofs.Inclusion) -> str:
        """In hex."""
        return found.leaf.hex()


class ConsistencyQuery(StrictSerializer):
    """Query parameters."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        """`from` is a word of Python's."""
        return {
            "from": NumberField(min_value=0, max_value=LARGEST_SIZE, help_text="The earlier size."),
            "to": NumberField(min_value=0, max_value=LARGEST_SIZE, help_text="The later size."),
        }


class ConsistencyShown(serializers.Serializer[Any]):
    """What shows that the later log begins with the earlier one (RFC 6962 section 2.1.2)."""

    hashes = serializers.ListField(child=serializers.CharField(), help_text="Base64.")


class LogView(ManagementView):
    """What is asked of a log."""

    access: ClassVar = {"get": "audit.read"}

    @property
    def log_of(self) -> UUID | None:
        """Whose log; None: the system's."""
        return None if self.tenant is None else UUID(str(self.tenant.id))


class HeadView(LogView):
    """The tenant's log."""

    @extend_schema(responses=HeadShown)
    def get(self, request: Request, tenant: str = "") -> Response:
        """Its newest checkpoint, and how many events wait for their place."""
        return Response(HeadShown(proofs.head(self.log_of)).data)


class InclusionView(LogView):
    """One event of the tenant's log."""

    @extend_schema(responses=InclusionShown)
    def get(self, request: Request, pk: UUID, tenant: str = "") -> Response:
        """The proof that it is in the log, to be checked offline."""
        return Response(InclusionShown(proofs.inclusion(self.log_of, pk)).data)


class ConsistencyView(LogView):
    """Two sizes of the tenant's log."""

    @extend_schema(parameters=[ConsistencyQuery], responses=ConsistencyShown)
    def get(self, request: Request, tenant: str = "") -> Response:
        """The proof that the later begins with the earlier."""
        query = ConsistencyQuery(data=read_parameters(request))
        query.is_valid(raise_exception=True)
        found = proofs.consistency(self.log_of, query.validated_data["from"], query.validated_data["to"])
        return Response({"hashes": lines_of(found)})


class _System:
    """The installation's own log: rows without a tenant, for platform administrators."""

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Rows without a tenant are the platform's alone."""
        with rls.platform_scope():
            yield


class SystemHeadView(_System, HeadView):
    """The system log."""


class SystemInclusionView(_System, InclusionView):
    """One event of the system log."""


class SystemConsistencyView(_System, ConsistencyView):
    """Two sizes of the system log."""
