"""The platform's baseline, which no tenant's policy can widen."""

from __future__ import annotations

from typing import ClassVar

from drf_spectacular.utils import extend_schema, extend_schema_view

from kasbah.residency.api.versions import SHOWN, ActivationBody, PolicyBody, VersionShown, VersionsViewSet
from kasbah.residency.models import BaselinePolicy


class BaselinePolicyShown(VersionShown):
    """One version of the platform's baseline."""

    class Meta:
        model = BaselinePolicy
        fields = SHOWN


@extend_schema_view(
    create=extend_schema(request=PolicyBody, responses={201: BaselinePolicyShown}),
    rollback=extend_schema(request=ActivationBody, responses={201: BaselinePolicyShown}),
)
class BaselineViewSet(VersionsViewSet):
    """Versions of the platform's baseline; what it denies, no tenant's policy allows."""

    queryset = BaselinePolicy.objects.all()
    serializer_class = BaselinePolicyShown
    access: ClassVar = {verb: f"baseline.{permission}" for verb, permission in VersionsViewSet.verbs.items()}
