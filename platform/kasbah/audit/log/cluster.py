"""Which PostgreSQL cluster holds the log. Transaction ids, by which events are ordered, are of one cluster alone.

`pg_restore` into a new one, or a copy of one that went on by itself, gives ids that begin anew or are used twice. Kept
beside the cursor are the cluster's system identifier and timeline, and what is found there now is compared with them:
by each server before it serves, by the sequencer in each run.

Another system identifier needs a person, who says that the database is the newest one (`manage.py auditlog moved`): an
older state would bring back revoked keys. Another timeline is a standby that took over: where it has all that was
signed it passes by itself, and is on record.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import psycopg
from django.conf import settings
from django.db import connection

from kasbah.audit.log.memory import Memory, SignerRefuses
from kasbah.audit.log.models import Cursor, Log
from kasbah.audit.services.events import ActorRef, Event, EventType, Resource
from kasbah.audit.services.intake import record
from kasbah.common import rls
from kasbah.common.checks import UnsafeDatabase
from kasbah.common.ids import uuid7

# `behind`: the ids of this cluster have not come as far as the cursor's, which therefore is of another.
QUESTION = """
    SELECT system.system_identifier::text, checkpoint.timeline_id, coalesce(kept.system_identifier, ''),
        coalesce(kept.timeline, 0),
        coalesce(kept.era = audit_era() AND kept.xid >= pg_snapshot_xmax(pg_current_snapshot()), false)
    FROM pg_control_system() AS system CROSS JOIN pg_control_checkpoint() AS checkpoint
    LEFT JOIN audit_cursor AS kept ON true
"""
SIZES = "SELECT tenant_id, origin, size FROM audit_log"
WAITING = """
    SELECT count(*) FROM audit_intake AS event WHERE tenant_id IS NOT DISTINCT FROM %s
    AND NOT EXISTS (SELECT FROM audit_leaf AS leaf WHERE leaf.event_id = event.id)
"""


class OtherCluster(SignerRefuses):
    """The log's transaction ids are of another cluster than the one that holds it now."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the database is, and where it was when the log grew last ("" and 0: that is not known)."""

    system: str
    timeline: int
    was_system: str
    was_timeline: int
    behind: bool

    @property
    def other(self) -> bool:
        """Whether ids of here cannot be compared with those of the cursor."""
        return self.behind or self.was_system not in ("", self.system)

    @property
    def turned(self) -> bool:
        """Whether another timeline of the same cluster goes on."""
        return not self.other and self.was_timeline not in (0, self.timeline)

    def refuse(self) -> None:
        """Raises OtherCluster where it is another."""
        if self.other:
            raise OtherCluster(
                f"The database was moved to another PostgreSQL cluster (system identifier {self.system}, the log's is"
                f" {self.was_system or 'another'}), where transaction ids begin anew: no event could be given its"
                " place. Once you know that it is the newest state that there is, run: manage.py auditlog moved"
            )


def find() -> Place:
    """Ask the database."""
    with connection.cursor() as cursor:
        cursor.execute(QUESTION)
        return Place(*cursor.fetchone())


def refuse_other() -> None:
    """Raise UnsafeDatabase where the log's cluster is not this one, or lacks what was signed.

    To be called by each process before it serves, after checks.refuse_unsafe_role.
    """
    try:
        with psycopg.connect(settings.DATABASE_URL, connect_timeout=10) as session:
            session.execute(rls.SET_PLATFORM)
            row = session.execute(QUESTION).fetchone()
            place = Place(*row)  # type: ignore[misc]
            place.refuse()
            if place.turned:
                for tenant, origin, size in session.execute(SIZES).fetchall():
                    (waiting,) = session.execute(WAITING, [tenant]).fetchone() or (0,)
                    _refuse_older(origin, size + waiting, place)
    except (psycopg.errors.UndefinedTable, psycopg.errors.UndefinedFunction, psycopg.errors.UndefinedColumn) as error:
        raise UnsafeDatabase("The database lacks migrations. Run: python manage.py migrate") from error
    except psycopg.OperationalError as error:
        raise UnsafeDatabase(f"The database cannot be reached, so it cannot be checked: {error}") from error
    except SignerRefuses as error:
        raise UnsafeDatabase(str(error)) from error


def keep(place: Place) -> None:
    """Note where the log is now, at the end of a run of the sequencer, which has just found all that was signed.

    Raises OtherCluster for a timeline that lacks some of it.
    """
    if (place.was_system, place.was_timeline) == (place.system, place.timeline):
        return
    if place.turned:
        for log in Log.objects.all():
            _refuse_older(log.origin, log.size, place)
        _tell(place, ActorRef("system", "sequencer", "process"), "timeline")
    Cursor.objects.filter(pk=1).update(system_identifier=place.system, timeline=place.timeline)


def begin_era(actor: ActorRef) -> int:
    """Take this cluster for the log's, by a person who knows that its database is the newest: the number of the era.

    What waits and what comes is then given places. In a platform scope whose transaction holds the sequencer's lock.
    Raises SignerRefuses where the database lacks what was signed, or is where it was.
    """
    place = find()
    if not place.other:
        raise SignerRefuses("The database is in the cluster that the log knows: nothing is to be done.")
    for log in Log.objects.all():
        with connection.cursor() as cursor:
            cursor.execute(WAITING, [log.tenant_id])
            (waiting,) = cursor.fetchone()
        _refuse_older(log.origin, log.size + waiting, place)
    with connection.cursor() as cursor:
        cursor.execute("SELECT audit_begin_era()")
        (era,) = cursor.fetchone()
        # From the first row on: what was written here before anybody noticed stands before the cursor.
        cursor.execute("UPDATE audit_cursor SET era = 0, xid = '0', event_id = %s", [UUID(int=0)])
    Cursor.objects.filter(pk=1).update(system_identifier=place.system, timeline=place.timeline)
    _tell(place, actor, "cluster", era)
    return int(era)


def _refuse_older(origin: str, size: int, place: Place) -> None:
    last = Memory.of_installation().last(origin)
    if last is not None and last.size > size:
        raise OtherCluster(
            f"{origin}: {last.size} events were signed, and the database, of cluster {place.system}, timeline"
            f" {place.timeline}, has {size}: it is older than the log. Restore the newest database"
        )


def _tell(place: Place, actor: ActorRef, reason: str, era: int | None = None) -> None:
    details: dict[str, str | int | bool | list[str]] = {
        "timeline": place.timeline,
        "timeline_before": place.was_timeline,
        "system_identifier_before": place.was_system,
    }
    record(
        Event(
            type=EventType.LOG_MOVED,
            tenant_id=None,
            actor=actor,
            reason=reason,
            resource=Resource("database_cluster", place.system),
            details=details if era is None else details | {"era": era},
            id=uuid7(),
        )
    )
