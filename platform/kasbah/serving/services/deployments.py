"""Deployments, and which tenants may use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from inference_worker.contract.messages import EngineSettings
from kasbah.audit.services import EventType, Resource, record
from kasbah.common import rls, validation
from kasbah.common.errors import Conflict, Invalid
from kasbah.identity.models import Tenant
from kasbah.identity.services import Actor, Permission, require
from kasbah.registry.models import ModelVersion, Stage
from kasbah.residency.models import Site, SiteState
from kasbah.serving.models import Deployment, DeploymentGrant
from kasbah.serving.services.events import event


def create_deployment(
    actor: Actor,
    name: str,
    model_version: ModelVersion,
    sites: Sequence[Site],
    engine_settings: dict[str, Any] | None = None,
) -> Deployment:
    """Serve an approved version under a public name. Raises Forbidden, Invalid, Conflict."""
    require(actor, Permission.DEPLOYMENT_MANAGE, None)
    if model_version.stage != Stage.APPROVED:
        raise Conflict(
            f"The version is {model_version.stage}; only an approved one can be deployed.",
            param="model_version",
            code="version_not_approved",
        )
    _check_sites(sites)
    deployment = Deployment(
        name=name, model_version=model_version, engine_settings=checked_settings(engine_settings or {})
    )
    with rls.platform_scope():
        validation.save(deployment, f"There is a deployment {name} already.", param="name")
        deployment.sites.set(sites)
        _record(EventType.DEPLOYMENT_CREATED, actor, deployment, sites)
    return deployment


def update_deployment(
    actor: Actor,
    deployment: Deployment,
    *,
    enabled: bool | None = None,
    sites: Sequence[Site] | None = None,
    engine_settings: dict[str, Any] | None = None,
) -> Deployment:
    """Change what is given; workers follow within seconds. Raises Forbidden, Invalid."""
    require(actor, Permission.DEPLOYMENT_MANAGE, None)
    if enabled is not None:
        deployment.enabled = enabled
    if engine_settings is not None:
        deployment.engine_settings = checked_settings(engine_settings)
    if sites is not None:
        _check_sites(sites)
    with rls.platform_scope():
        validation.save(deployment, f"There is a deployment {deployment.name} already.", param="name")
        if sites is not None:
            deployment.sites.set(sites)
        _record(EventType.DEPLOYMENT_CHANGED, actor, deployment, list(deployment.sites.all()))
    return deployment


def grant(actor: Actor, tenant: Tenant, deployment: Deployment) -> DeploymentGrant:
    """Let a tenant use a deployment. Raises NotFound, Forbidden, Conflict."""
    require(actor, Permission.GRANT_MANAGE, tenant)
    allowed = DeploymentGrant(tenant=tenant, deployment=deployment)
    with rls.tenant_scope(tenant.id):
        validation.save(allowed, "The tenant may use this deployment already.", param="deployment")
        resource = Resource("deployment", str(deployment.id))
        record(event(EventType.DEPLOYMENT_GRANTED, actor, resource, tenant=tenant.id))
    return allowed


def revoke_grant(actor: Actor, allowed: DeploymentGrant) -> None:
    """Take a deployment away from a tenant; what runs ends as it would. Raises NotFound, Forbidden."""
    require(actor, Permission.GRANT_MANAGE, allowed.tenant_id)
    with rls.tenant_scope(allowed.tenant_id):
        resource = Resource("deployment", str(allowed.deployment_id))
        record(event(EventType.DEPLOYMENT_GRANT_REVOKED, actor, resource, tenant=allowed.tenant_id))
        allowed.delete()


def checked_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Engine settings with their defaults filled in (contract.EngineSettings). Raises Invalid naming the setting."""
    try:
        known = msgspec.convert(settings, EngineSettings)
    except msgspec.ValidationError as error:
        raise Invalid(f"engine_settings: {error}", param="engine_settings") from error
    for name in ("max_model_len", "max_num_seqs", "kv_cache_gib", "tensor_parallel_size"):
        if getattr(known, name) < 1:
            raise Invalid(f"{name} must be at least 1.", param=f"engine_settings.{name}")
    filled: dict[str, Any] = msgspec.to_builtins(known)
    return filled


def _check_sites(sites: Sequence[Site]) -> None:
    if not sites:
        raise Invalid("A deployment needs at least one site.", param="sites")
    if retired := sorted(site.slug for site in sites if site.state == SiteState.RETIRED):
        raise Invalid(f"Retired, so nothing can be served there: {', '.join(retired)}.", param="sites")


def _record(kind: EventType, actor: Actor, deployment: Deployment, sites: Sequence[Site]) -> None:
    record(
        event(
            kind,
            actor,
            Resource("deployment", str(deployment.id), deployment.model_version.digest),
            sites=sorted(site.slug for site in sites),
            enabled=deployment.enabled,
        )
    )
