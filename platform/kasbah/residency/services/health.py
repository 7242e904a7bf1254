"""What housekeeping finds when it looks at a site: kept for people, and on record when a site is lost or back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from django.utils import timezone

from kasbah.audit.services import Event, EventType, Resource, record
from kasbah.common import rls
from kasbah.identity.services import system
from kasbah.residency.models import Site, SiteHealth, SiteLife

OK = "ok"
WRITTEN_EVERY = timedelta(seconds=5)  # where nothing has changed
TROUBLES_SHOWN = 20
GONE = (SiteLife.LOST, SiteLife.UNREACHABLE)


@dataclass(frozen=True, slots=True)
class Look:
    """One look. `broker` and `store` are "ok" or the class of the error; `workers` are those that were approved."""

    broker: str = OK
    store: str = OK
    workers: int = 0
    alive: int = 0
    capacity: int = 0
    running: int = 0
    troubles: tuple[str, ...] = ()  # what is wrong with its workers, each with the worker's name

    @property
    def life(self) -> SiteLife:
        """What follows."""
        if (self.broker, self.store) != (OK, OK):
            return SiteLife.UNREACHABLE
        if not self.workers:
            return SiteLife.EMPTY
        return SiteLife.LIVE if self.alive else SiteLife.LOST


def note_health(site: Site, look: Look) -> bool:
    """Keep what was found; an event says that a site was lost, and that it is back. Answers whether `life` changed."""
    now = timezone.now()
    with rls.platform_scope():
        known = SiteHealth.objects.filter(site=site).first() or SiteHealth(site=site)
        found = {
            "life": look.life,
            "broker_state": look.broker[:60],
            "store_state": look.store[:60],
            "workers": look.workers,
            "alive": look.alive,
            "capacity": look.capacity,
            "running": look.running,
            "troubles": list(look.troubles[:TROUBLES_SHOWN]),
        }
        changed = any(getattr(known, name) != value for name, value in found.items())
        if not changed and known.checked_at is not None and now - known.checked_at < WRITTEN_EVERY:
            return False
        before = known.life
        for name, value in found.items():
            setattr(known, name, value)
        known.checked_at = now
        if before != look.life or known.since is None:
            known.since = now
        known.save()
        if (before in GONE) != (look.life in GONE):
            kind = EventType.SITE_LOST if look.life in GONE else EventType.SITE_BACK
            record(_event(kind, site, look))
    return bool(before != look.life)


def _event(kind: EventType, site: Site, look: Look) -> Event:
    return Event(
        type=kind,
        tenant_id=None,
        actor=system("housekeeping").ref,
        resource=Resource("site", str(site.id)),
        reason=look.life.value,
        site=str(site.id),
        details={"slug": site.slug, "broker": look.broker, "store": look.store, "workers": look.workers},
    )
