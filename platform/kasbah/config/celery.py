"""The control plane's Celery application: housekeeping on its own broker. Inference goes to the sites' brokers."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery, signals

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kasbah.config.settings")

from django.conf import settings
from django.db import connections

from inference_worker.contract.dumps import leave_no_dumps
from inference_worker.contract.printable import LineFormatter
from kasbah.common.checks import UnsafeDatabase, refuse_unsafe_role
from kasbah.common.env import exit_on_wrong_setting
from kasbah.common.stores import ForgetfulStore, refuse_forgetful
from kasbah.config.egress import guard

# Tasks that speak to another machine, and may wait for it: to witnesses, receivers of the log, brokers of sites. Each
# runs once at a time (common.exclusive), so together they take no more threads than there are of them.
OUTWARD = frozenset(
    {
        "audit.ask_witnesses",
        "audit.forward",
        "serving.collect_reports",
        "serving.delete_erased_frames",
        "serving.reconcile",
        "serving.sweep_jobs",
    }
)
INWARD_THREADS = 3  # always free of them: for the sequencer, activations and what runs every hour

leave_no_dumps()
app = Celery("kasbah")
with exit_on_wrong_setting():
    _ = settings.REDIS_URL  # loads the settings
app.conf.update(
    broker_url=settings.REDIS_URL,
    broker_connection_retry_on_startup=True,
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_default_queue="housekeeping",
    worker_prefetch_multiplier=1,
    worker_concurrency=len(OUTWARD) + INWARD_THREADS,
    worker_send_task_events=False,
    # A tick that was missed is not made up for: every task looks at the whole state.
    beat_schedule={
        "sequence-log": {"task": "audit.sequence", "schedule": 0.5, "options": {"expires": 1}},
        "ask-witnesses": {"task": "audit.ask_witnesses", "schedule": 30.0, "options": {"expires": 30}},
        "forward-log": {"task": "audit.forward", "schedule": 2.0, "options": {"expires": 2}},
        "collect-reports": {"task": "serving.collect_reports", "schedule": 1.0, "options": {"expires": 2}},
        "sweep-jobs": {"task": "serving.sweep_jobs", "schedule": 2.0, "options": {"expires": 4}},
        "delete-erased-frames": {
            "task": "serving.delete_erased_frames",
            "schedule": 10.0,
            "options": {"expires": 10},
        },
        "reconcile": {"task": "serving.reconcile", "schedule": 3600.0, "options": {"expires": 3600}},
        "expire-rows": {"task": "serving.expire_rows", "schedule": 60.0, "options": {"expires": 60}},
        "retain-content": {"task": "residency.retain", "schedule": 3600.0, "options": {"expires": 3600}},
        "prune-log": {"task": "residency.prune", "schedule": 3600.0, "options": {"expires": 3600}},
        "expire-invitations": {"task": "identity.expire_invitations", "schedule": 3600.0, "options": {"expires": 3600}},
        "expire-sessions": {"task": "identity.expire_sessions", "schedule": 3600.0, "options": {"expires": 3600}},
        "activate-policies": {"task": "residency.activate_policies", "schedule": 5.0, "options": {"expires": 5}},
    },
)
app.autodiscover_tasks(["kasbah.audit", "kasbah.identity", "kasbah.serving", "kasbah.residency"])


@signals.after_setup_logger.connect
@signals.after_setup_task_logger.connect
def _escape_lines(logger: Any = None, **_: object) -> None:
    """Celery makes handlers of its own; what they write is escaped like every other line."""
    for handler in logger.handlers:
        handler.setFormatter(LineFormatter(handler.formatter._fmt if handler.formatter else None))


@signals.worker_init.connect
@signals.beat_init.connect
def _begin_safely(sender: Any = None, **_: object) -> None:
    """Guard what this process connects to, and what it forks; then start only where the database keeps tenants apart.

    A signal comes for every application's worker in this process; others are not ours.
    """
    if sender.app is not app:
        return
    os.umask(0o077)  # tiles, the signer's memory, the schedule
    from kasbah.audit.services import clusters
    from kasbah.config.preflight import check_settings

    with exit_on_wrong_setting():
        guard("housekeeping")
        check_settings()
    try:
        refuse_unsafe_role()
        clusters.refuse_other()
        refuse_forgetful()
    except (UnsafeDatabase, ForgetfulStore) as error:
        raise SystemExit(str(error)) from error  # Celery logs what else a receiver raises, and goes on


@signals.worker_init.connect
def _note_settings(sender: Any = None, **_: object) -> None:
    """That housekeeping began with other settings is on record; without the record it does not begin."""
    if sender.app is not app:
        return
    from kasbah.config import noted

    try:
        noted.note("housekeeping")
    except Exception as error:
        raise SystemExit(f"The settings cannot be put on record: {error}") from error
    connections.close_all()
