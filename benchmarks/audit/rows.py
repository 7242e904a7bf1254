"""What the measurements share: an event as requests leave it, and a row of the table."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from kasbah.audit.services import Event

BACKLOG = UUID(int=0x0199C1F27A3B7C4D8E5F0123456789AB)  # the tenant whose log is sequenced, exported and verified


def event(tenant: UUID) -> Event:
    from kasbah.audit.services import ActorRef, Event, EventType

    details: dict[str, str | int | bool | list[str]] = {
        "data_class": "internal",
        "endpoint": "/v1/chat/completions",
        "stream": True,
        "sites": [str(tenant)],
    }
    actor = ActorRef("api_key", str(tenant), "api_key")
    return Event(type=EventType.INFERENCE_INTENT, tenant_id=tenant, actor=actor, details=details)


def rate_row(what: str, rate: float, unit: str, goal: float) -> list[str]:
    return [what, f"{rate:,.0f} {unit}", f"{goal:,.0f}" if goal else "", f"{rate / goal:.2f}" if goal else ""]


def wait_row(what: str, waits: list[float], goal: float) -> list[str]:
    """The 99th percentile of `waits`, in seconds, beside its goal; in milliseconds where the goal is."""
    waits.sort()
    p99 = waits[int(len(waits) * 0.99)]
    scale, unit = (1000, "ms") if goal < 1 else (1, "s")
    return [f"{what}, p99", f"{p99 * scale:.2f} {unit}", f"{goal * scale:.0f} {unit}", f"{p99 / goal:.2f}"]
