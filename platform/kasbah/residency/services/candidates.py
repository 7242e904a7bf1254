"""A tenant's document as it would decide: within the platform's baseline of now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from kasbah.residency.compiled import CompiledPolicy, compile_policy
from kasbah.residency.models import BaselinePolicy, PolicyState


def candidate(tenant_id: UUID, document: Mapping[str, Any], *, policy_id: str = "", version: int = 0) -> CompiledPolicy:
    """Ready to decide, as if it were active now. Raises PolicyInvalid, for the baseline too."""
    return compile_policy(document, tenant=tenant_id, policy_id=policy_id, version=version, baseline=active_baseline())


def active_baseline() -> CompiledPolicy | None:
    """What bounds every tenant's policy, if there is such a thing. Raises PolicyInvalid."""
    row = BaselinePolicy.objects.filter(state=PolicyState.ACTIVE).first()
    return None if row is None else compile_policy(row.document, policy_id=str(row.id), version=row.version)
