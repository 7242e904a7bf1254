"""Sites, models and workers as rows, for what only reads them."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from kasbah.common.ids import uuid7
from kasbah.identity.models import Tenant
from kasbah.registry.models import Model, ModelVersion, Stage
from kasbah.residency.models import Site
from kasbah.residency.services import create_site
from kasbah.serving.models import Deployment, Worker, WorkerState
from kasbah.serving.services import create_deployment, grant
from tests import factories
from tests.factories import SYSTEM


def site(slug: str, jurisdiction: str) -> Site:
    """A site."""
    return create_site(SYSTEM, slug, slug.title(), jurisdiction, "redis://127.0.0.1:1/0")


def deployment(name: str, *sites: Site) -> Deployment:
    """A model under this name at these sites."""
    model = Model.objects.create(name=factories.slug("model"), publisher="P", licence="Apache-2.0", family="mixtral")
    version = ModelVersion.objects.create(
        model=model, digest=uuid7().hex * 2, manifest=[], size=2, stage=Stage.APPROVED
    )
    return create_deployment(SYSTEM, name, version, sites)


def worker(at: Site, *serves: Deployment, state: str = WorkerState.ENROLLED, says: str = "ready") -> Worker:
    """A worker that was heard of just now."""
    key = uuid7().bytes * 2
    return Worker.objects.create(
        site=at,
        name=factories.slug("worker"),
        public_key=key,
        state=state,
        last_seen_at=timezone.now(),
        served=[{"deployment": str(row.id), "model_digest": "", "state": says} for row in serves],
    )


def tenant_with(document: dict[str, Any], *deployments: Deployment) -> Tenant:
    """A tenant with an active policy that may use these models."""
    made = factories.household().tenant
    factories.active_policy(made, document)
    for row in deployments:
        grant(SYSTEM, made, row)
    return made


def document(*rules: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A policy document."""
    return {"version": 1, "rules": list(rules), **fields}


def allow(ident: str, **conditions: Any) -> dict[str, Any]:
    """A rule that allows internal data for every model."""
    return {"id": ident, "effect": "allow", "data_classes": ["internal"], "models": ["*"], **conditions}
