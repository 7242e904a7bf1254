"""Whether the sequencer is at work. That it began, goes on after a pause or was stopped is on record; ticks are not."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from kasbah.audit.log.models import SequencerState
from kasbah.audit.services.events import ActorRef, Event, EventType, Outcome
from kasbah.audit.services.intake import record
from kasbah.common import rls

PAUSE = timedelta(seconds=60)  # after which going on is told of
NOTE_EVERY = timedelta(seconds=10)
WHO = ActorRef("system", "sequencer", "process")


def at_work() -> None:
    """It has just sequenced."""
    now = timezone.now()
    with rls.platform_scope():
        state = SequencerState.objects.filter(pk=1).first()
        if state is not None and not state.refused and now - state.seen_at < NOTE_EVERY:
            return
        pause = now - state.seen_at if state is not None else timedelta()
        reason = "first" if state is None else "signer_agrees" if state.refused else "after_pause"
        SequencerState.objects.update_or_create(pk=1, defaults={"seen_at": now, "refused": False})
        if state is None or state.refused or pause > PAUSE:
            details = {"pause_seconds": int(pause.total_seconds())}
            record(Event(type=EventType.SEQUENCER_STARTED, tenant_id=None, actor=WHO, reason=reason, details=details))


def stopped() -> None:
    """The signer refuses. Intake goes on, so this is on record, and gets its place once the signer agrees again."""
    now = timezone.now()
    with rls.platform_scope():
        if SequencerState.objects.filter(pk=1, refused=True).exists():
            return
        SequencerState.objects.update_or_create(
            pk=1, defaults={"refused": True}, create_defaults={"seen_at": now, "refused": True}
        )
        record(
            Event(
                type=EventType.SEQUENCER_STOPPED,
                tenant_id=None,
                actor=WHO,
                outcome=Outcome.FAILURE,
                reason="signer_refuses",
            )
        )
