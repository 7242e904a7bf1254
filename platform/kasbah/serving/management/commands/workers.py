"""List workers; approve, reject, cordon, drain, resume or revoke one."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from inference_worker.contract.signing import fingerprint
from kasbah.common.commands import Facts, KasbahCommand, uuid_argument
from kasbah.identity.commands import command_actor
from kasbah.serving import services
from kasbah.serving.housekeeping import troubles
from kasbah.serving.models import Worker, WorkerState

VERBS = {
    "approve": services.approve_worker,
    "reject": services.reject_worker,
    "cordon": services.cordon_worker,
    "drain": services.drain_worker,
    "resume": services.resume_worker,
    "revoke": services.revoke_worker,
}


class Command(KasbahCommand):
    """`manage.py workers`."""

    help = (
        "List inference workers; approve or reject one that waits; cordon (nothing new is sent), drain (its engines "
        "stop too), resume or revoke one. Rejecting and revoking cannot be undone."
    )
    epilog = "Example: manage.py workers approve 0199c1f2-7a3b-7c4d-8e5f-0123456789ab"
    empty = "No worker has enrolled. Issue a token with: manage.py enroltoken --site SLUG"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        parser.add_argument("verb", nargs="?", choices=["list", *VERBS], default="list", help="What to do (list).")
        parser.add_argument("id", nargs="?", type=uuid_argument, help="The worker; not for list.")
        parser.add_argument("--fingerprint", metavar="TEXT", help="With approve: what its log shows; must be the same.")
        parser.add_argument("--site", metavar="SLUG", help="List those of one site.")
        parser.add_argument("--state", choices=WorkerState.values, help="List those in one state.")

    def run(self, **options: Any) -> Facts | Sequence[Facts]:
        """List or change."""
        verb, ident = options["verb"], options["id"]
        if verb != "list":
            return line(_changed(verb, ident, options["fingerprint"] or ""))
        if ident is not None:
            raise CommandError("list takes no id; see --site and --state.")
        chosen = {"site__slug": options["site"], "state": options["state"]}
        workers = Worker.objects.select_related("site").order_by("site__slug", "name")
        return [line(worker) for worker in workers.filter(**{k: v for k, v in chosen.items() if v is not None})]


def _changed(verb: str, ident: Any, expected: str) -> Worker:
    worker = Worker.objects.filter(pk=ident).first()
    if worker is None:
        raise CommandError(f"There is no worker {ident}." if ident else f"Name the worker: manage.py workers {verb} ID")
    if verb == "approve":
        services.approve_worker(command_actor(), worker, expected=expected)
    else:
        VERBS[verb](command_actor(), worker)
    return Worker.objects.select_related("site").get(pk=worker.pk)


def line(worker: Worker) -> Facts:
    """What is shown of one."""
    return {
        "id": worker.id,
        "site": worker.site.slug,
        "name": worker.name,
        "state": worker.state,
        "alive": worker.alive,
        "serves": [f"{served['deployment']} ({served['state']})" for served in worker.served],
        "capacity": worker.capacity,
        "trouble": troubles.texts(worker.troubles),
        "clock_offset_s": worker.clock_offset,
        "refused": worker.refused,
        "engine": worker.engine,
        "fingerprint": fingerprint(bytes(worker.public_key)),
        "last_seen_at": worker.last_seen_at,
    }
