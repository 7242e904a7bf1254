"""What the asynchronous side reads of this app."""

from __future__ import annotations

from uuid import UUID

from kasbah.common.database import Connection
from kasbah.serving.records import DeploymentRecord, WorkerRecord

DEPLOYMENTS = """
SELECT deployment.id, deployment.name, version.digest, deployment.engine_settings, deployment.created_at,
    model.publisher, coalesce(version.topology->>'architecture', ''),
    array_agg(site.id ORDER BY site.slug) FILTER (WHERE site.id IS NOT NULL)
FROM serving_deployment AS deployment
JOIN serving_deploymentgrant AS allowed ON allowed.deployment_id = deployment.id AND allowed.tenant_id = %s
JOIN registry_modelversion AS version ON version.id = deployment.model_version_id
JOIN registry_model AS model ON model.id = version.model_id
LEFT JOIN serving_deployment_sites AS place ON place.deployment_id = deployment.id
LEFT JOIN residency_site AS site ON site.id = place.site_id
WHERE deployment.enabled
GROUP BY deployment.id, version.id, model.id ORDER BY deployment.name
"""

WORKERS = """
SELECT worker.id, worker.site_id, worker.name, worker.public_key, worker.state,
    array_agg(former.public_key) FILTER (WHERE former.id IS NOT NULL),
    array_agg(extract(epoch FROM former.valid_until)::float8) FILTER (WHERE former.id IS NOT NULL)
FROM serving_worker AS worker
LEFT JOIN serving_formerworkerkey AS former ON former.worker_id = worker.id AND former.valid_until > now()
WHERE worker.state NOT IN ('pending', 'revoked') GROUP BY worker.id
"""


async def load_deployments(connection: Connection, tenant_id: UUID) -> tuple[DeploymentRecord, ...]:
    """The deployments that this tenant may use, by name, with all their sites: which take jobs now is asked later."""
    rows = await connection.execute(DEPLOYMENTS, [tenant_id])
    return tuple(
        DeploymentRecord(
            id=row[0],
            name=row[1],
            model_digest=row[2],
            engine_settings=row[3],
            created=row[4],
            owned_by=row[5],
            architecture=row[6],
            sites=tuple(row[7] or ()),
        )
        for row in await rows.fetchall()
    )


async def load_workers(connection: Connection) -> tuple[WorkerRecord, ...]:
    """Every worker that was approved and not revoked: a lost or drained one may still finish what it has."""
    rows = await connection.execute(WORKERS)
    return tuple(
        WorkerRecord(row[0], row[1], row[2], bytes(row[3]), row[4], tuple(zip(row[5] or (), row[6] or (), strict=True)))
        for row in await rows.fetchall()
    )
