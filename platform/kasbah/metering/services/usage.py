"""Usage rows: the truth of what was used. Counters can be lost and built again from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import connection as django_connection
from django.db.models import Count, F, QuerySet, Sum
from django.db.models.functions import TruncDay

from kasbah.common.database import Connection
from kasbah.metering.models import LimitScope, Usage

# One statement whatever the number of rows. A job is settled once: its second row is ignored.
INSERT = """
INSERT INTO metering_usage
    (id, tenant_id, project_id, api_key_id, deployment, endpoint, prompt_tokens, completion_tokens, exact, created_at)
SELECT *, now() FROM unnest(
    %s::uuid[], %s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::int[], %s::int[], %s::bool[])
ON CONFLICT (id) DO NOTHING
"""
SUM = """
SELECT coalesce(sum(prompt_tokens::bigint + completion_tokens), 0)::bigint FROM metering_usage
WHERE tenant_id = %s AND created_at >= %s
"""
NARROWER = {
    LimitScope.TENANT.value: "tenant_id",
    LimitScope.PROJECT.value: "project_id",
    LimitScope.API_KEY.value: "api_key_id",
}


GROUPS = ("day", "deployment", "project", "api_key")


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Tokens of one job; `deployment` is the public model name."""

    job_id: UUID
    tenant_id: UUID
    project_id: UUID
    api_key_id: UUID
    deployment: str
    endpoint: str
    prompt_tokens: int
    completion_tokens: int
    exact: bool = True


async def insert_usage(connection: Connection, rows: Sequence[UsageRow]) -> None:
    """Write rows of any tenants; `connection` speaks for the platform. A job's second row is ignored."""
    if rows:
        names = UsageRow.__slots__
        await connection.execute(INSERT, [[getattr(row, name) for row in rows] for name in names])


def record_usage(rows: Sequence[UsageRow]) -> None:
    """The same from synchronous code, in its transaction."""
    if rows:
        with django_connection.cursor() as cursor:
            cursor.execute(INSERT, [[getattr(row, name) for row in rows] for name in UsageRow.__slots__])


async def used_since(connection: Connection, tenant_id: UUID, scope: str, subject_id: UUID, start: datetime) -> int:
    """Tokens of a tenant, project or key since `start`."""
    question = f"{SUM} AND {NARROWER[scope]} = %s"
    row = await (await connection.execute(question, [tenant_id, start, subject_id])).fetchone()
    return int(row[0]) if row else 0


def sum_usage(rows: QuerySet[Usage], by: str) -> list[dict[str, Any]]:
    """Requests and tokens of `rows` in groups by one of GROUPS; `group` is a day in UTC, a model's name or an id."""
    group = TruncDay("created_at", tzinfo=UTC) if by == "day" else F(by)
    sums = (
        rows.values(group=group)
        .annotate(requests=Count("id"), prompt=Sum("prompt_tokens"), completion=Sum("completion_tokens"))
        .order_by("group")
    )
    return [
        {
            "group": row["group"].date().isoformat() if by == "day" else str(row["group"]),
            "requests": row["requests"],
            "prompt_tokens": row["prompt"],
            "completion_tokens": row["completion"],
        }
        for row in sums
    ]
