"""A tenant's document as it would decide: within the platform's baseline of now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from kasbah.residency.compiled import CompiledPolicy, compile_policy
from kasbah.residency.services.loaders import baseline_in_force


def candidate(tenant_id: UUID, document: Mapping[str, Any], *, policy_id: str = "", version: int = 0) -> CompiledPolicy:
    """Ready to decide, as if it were active now. Raises PolicyInvalid, and Unavailable for the baseline."""
    return compile_policy(
        document, tenant=tenant_id, policy_id=policy_id, version=version, baseline=baseline_in_force()
    )
