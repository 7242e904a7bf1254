"""The platform's baseline, which no tenant's policy can widen."""

from __future__ import annotations

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from kasbah.residency.api.versions import SHOWN, ActivationBody, PolicyBody, VersionShown, VersionsViewSet
from kasbah.residency.models import BaselinePolicy


class BaselinePolicyShown(VersionShown):
    """One version of the platform's baseline."""

    class Meta:
        model = BaselinePolicy
        fields = SHOWN


class BaselineViewSet(VersionsViewSet):
    """Versions of the platform's baseline; what it denies, no tenant's policy allows."""

    queryset = BaselinePolicy.objects.all()
    serializer_class = BaselinePolicyShown
    access: ClassVar = {verb: f"baseline.{permission}" for verb, permission in VersionsViewSet.verbs.items()}

    @extend_schema(request=PolicyBody, responses={201: BaselinePolicyShown})
    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Add a draft. A document with problems is refused; the first are named, with their lines in a text."""
        return super().create(request)

    @extend_schema(request=ActivationBody, responses={201: BaselinePolicyShown})
    @action(detail=True, methods=["post"])
    def rollback(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Make a new version of this one's document, and ask for its activation."""
        return super().rollback(request)
