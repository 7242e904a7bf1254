"""GET /v1/models: what this key may use. No quota or limit stands before it."""

from __future__ import annotations

import msgspec

from kasbah.gateway import admission, refusals
from kasbah.gateway.exchange import Exchange
from kasbah.gateway.runtime import Runtime
from kasbah.serving.services import DeploymentRecord


async def list_models(runtime: Runtime, exchange: Exchange) -> None:
    """All models of the key's tenant. Raises Unauthenticated, Unavailable."""
    facts = await runtime.tenants.facts((await admission.authenticate(runtime, exchange)).tenant_id)
    data = [_model(deployment) for deployment in facts.deployments.values()]
    await exchange.answer(200, msgspec.json.encode({"object": "list", "data": data}))


async def show_model(runtime: Runtime, exchange: Exchange, name: str) -> None:
    """One model. Raises NotFound for one that is not there or not for this key."""
    facts = await runtime.tenants.facts((await admission.authenticate(runtime, exchange)).tenant_id)
    deployment = facts.deployments.get(name)
    if deployment is None:
        raise refusals.model_not_found(name)
    await exchange.answer(200, msgspec.json.encode(_model(deployment)))


def _model(deployment: DeploymentRecord) -> dict[str, object]:
    return {
        "id": deployment.name,
        "object": "model",
        "created": int(deployment.created.timestamp()),
        "owned_by": deployment.owned_by,
        "max_model_len": deployment.context,
    }
