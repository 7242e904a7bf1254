"""What the API of tenants' policies and that of the baseline share: the life of a version."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.common.api import ListMixin, RetrieveMixin, StrictBody, StrictSerializer
from kasbah.common.errors import Invalid
from kasbah.common.numbers import LARGEST_VERSION
from kasbah.common.queries import NumberField, read_parameters
from kasbah.common.times import TimeField
from kasbah.residency import services
from kasbah.residency.difference import difference
from kasbah.residency.document import MAX_BYTES
from kasbah.residency.models import PolicyState

FORMAT = "See residency/policy.schema.json."
SHOWN = [
    "id", "version", "state", "document", "text", "digest", "created_by", "created_at", "findings",
    "needs_approval", "compared_version", "comparison", "requested_by", "requested_at", "expires_at", "activate_at",
    "reviewed_by", "reviewed_at", "reason", "bootstrap", "activated_at",
]  # fmt: skip


class Finding(serializers.Serializer[Any]):
    """Something that the version loosens, compared with the one that was active."""

    what = serializers.CharField(help_text="cell, content, retention, strictest, approval, classifier, too_large.")
    message = serializers.CharField()
    example = serializers.DictField(help_text="A request that would newly be allowed, or the setting that changes.")


class VersionShown(serializers.ModelSerializer[Any]):
    """Fields that need more than their model says."""

    document = serializers.JSONField(help_text=FORMAT)
    text = serializers.CharField(source="source", help_text="As it was given, comments and all; empty: as a document.")
    digest = serializers.CharField(help_text="SHA-256 of the document in canonical form, hex.")
    findings = Finding(many=True, help_text="What it loosens, at most 20.")
    comparison = serializers.CharField(help_text="What an approval is bound to: document, compared version, findings.")


class PolicyBody(StrictBody):
    """A policy, as an object or as text; one of the two."""

    document = serializers.DictField(required=False, help_text=FORMAT)
    text = serializers.CharField(
        required=False, trim_whitespace=False, max_length=MAX_BYTES, help_text="YAML or JSON; it is kept as it is."
    )


class ActivationBody(StrictBody):
    """When."""

    at = TimeField(required=False, help_text="From when on it decides; left out: at once.")


class ApprovalBody(StrictBody):
    """What was looked at."""

    comparison = serializers.CharField(max_length=64, help_text="As the version shows it.")


class RejectionBody(StrictBody):
    """Why."""

    reason = serializers.CharField(max_length=500)


class ProblemShown(serializers.Serializer[Any]):
    """What is wrong, and where."""

    path = serializers.CharField(help_text="JSON Pointer (RFC 6901), such as /rules/0/sites; empty: the document.")
    line = serializers.IntegerField(help_text="Of the text, from 1; 0 when a document was given.")
    message = serializers.CharField()


class PolicyVerdict(serializers.Serializer[Any]):
    """Whether a document could be a policy."""

    valid = serializers.BooleanField()
    problems = ProblemShown(many=True)


class RuleChange(serializers.Serializer[Any]):
    """A rule that both versions have, by its id."""

    id = serializers.CharField()
    before = serializers.DictField()
    after = serializers.DictField()


class SettingChange(serializers.Serializer[Any]):
    """A field of the document that is no rule; null where it is not there."""

    field = serializers.CharField()
    before = serializers.JSONField()
    after = serializers.JSONField()


class DifferenceShown(serializers.Serializer[Any]):
    """What changed from one version to another."""

    id = serializers.UUIDField()
    version = serializers.IntegerField()
    against = NumberField(allow_null=True, help_text="Number of the older version; null: there is none.")
    added = serializers.ListField(child=serializers.DictField(), help_text="Rules.")
    removed = serializers.ListField(child=serializers.DictField(), help_text="Rules.")
    changed = RuleChange(many=True)
    settings = SettingChange(many=True)


class Against(StrictSerializer):
    """Query parameters."""

    against = NumberField(
        required=False,
        min_value=1,
        max_value=LARGEST_VERSION,
        help_text="Number of a version; left out: the active one.",
    )


class VersionFilters(StrictSerializer):
    """Query parameters."""

    state = serializers.ChoiceField(PolicyState.choices, required=False)
    version = NumberField(required=False, min_value=1, max_value=LARGEST_VERSION)


class VersionsViewSet(ListMixin, RetrieveMixin):
    """Versions; every one is kept, one is active. The verbs are the same for tenants and for the baseline."""

    filters = VersionFilters
    long: ClassVar = frozenset({"create", "validate", "difference", "request_activation"})  # they compile documents
    # Verb -> permission without its subject.
    verbs: ClassVar = {
        "list": "read",
        "retrieve": "read",
        "validate": "read",
        "difference": "read",
        "create": "manage",
        "request_activation": "manage",
        "withdraw": "manage",
        "rollback": "manage",
        "approve": "approve",
        "reject": "approve",
    }

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Add a draft. A document with problems is refused; the first are named, with their lines in a text."""
        return self.shown(services.create_policy(self.actor, self.tenant, self._given()), 201)

    @extend_schema(request=PolicyBody, responses=PolicyVerdict)
    @action(detail=False, methods=["post"])
    def validate(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Check a document without keeping it; every problem is listed, with its line in a text."""
        _, problems = services.check_policy(self.tenant, self._given())
        return Response(PolicyVerdict({"valid": not problems, "problems": problems}).data)

    @extend_schema(
        responses=DifferenceShown,
        parameters=[OpenApiParameter("against", int, description="Number of a version; left out: the active one.")],
    )
    @action(detail=True, methods=["get"], url_path="diff", url_name="diff")
    def difference(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """What changed from another version to this one, rule by rule."""
        query = Against(data=read_parameters(request, besides=("format",)))
        query.is_valid(raise_exception=True)
        found, chosen = self.find(), query.validated_data.get("against")
        one = {"version": chosen} if chosen else {"state": PolicyState.ACTIVE}
        other = self.rows().filter(**one).first()
        if chosen and other is None:
            raise Invalid(f"There is no version {chosen}.", param="against")
        changes = difference(other.document if other else {}, found.document)
        facts = {"id": found.id, "version": found.version, "against": other.version if other else None}
        return Response(DifferenceShown(facts | changes).data)

    @extend_schema(request=ActivationBody)
    @action(detail=True, methods=["post"], url_path="request-activation", url_name="request-activation")
    def request_activation(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Ask that this version decide. What loosens nothing does so by that; the rest waits for a second person.

        A version that waits already is compared anew with what is active now.
        """
        return self.shown(services.request_activation(self.actor, self.find(), self.body(ActivationBody).get("at")))

    @extend_schema(request=ApprovalBody)
    @action(detail=True, methods=["post"])
    def approve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Agree, as a second person who logged in within the last ten minutes, to what a version loosens."""
        found = self.find()
        return self.shown(services.approve_policy(self.actor, found, self.body(ApprovalBody)["comparison"]))

    @extend_schema(request=RejectionBody)
    @action(detail=True, methods=["post"])
    def reject(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Refuse, as a second person, what was asked for."""
        return self.shown(services.reject_policy(self.actor, self.find(), self.body(RejectionBody)["reason"]))

    @extend_schema(request=None)
    @action(detail=True, methods=["post"])
    def withdraw(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Take back a request, or an activation whose time has not come."""
        return self.shown(services.withdraw_policy(self.actor, self.find()))

    @action(detail=True, methods=["post"])
    def rollback(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Make a new version of this one's document, and ask for its activation."""
        again = services.roll_back(self.actor, self.find(), self.body(ActivationBody).get("at"))
        return self.shown(again, 201)

    def _given(self) -> Any:
        """The document or the text of the body. Raises Invalid."""
        body = self.body(PolicyBody)
        if len(body) != 1:
            raise Invalid("Give either a document or a text.", param="document")
        return body.get("document", body.get("text"))
