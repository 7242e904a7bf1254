"""List workers; drain, resume or revoke one."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from kasbah.common.commands import Facts, KasbahCommand, uuid_argument
from kasbah.identity.commands import command_actor
from kasbah.serving import services
from kasbah.serving.models import Worker, WorkerState

VERBS = {"drain": services.drain_worker, "resume": services.resume_worker, "revoke": services.revoke_worker}


class Command(KasbahCommand):
    """`manage.py workers`."""

    help = "List inference workers, or drain, resume or revoke one. Revoking cannot be undone."
    epilog = "Example: manage.py workers --drain 0199c1f2-7a3b-7c4d-8e5f-0123456789ab"
    empty = "No worker has enrolled. Issue a token with: manage.py enroltoken --site SLUG"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        parser.add_argument("--site", metavar="SLUG", help="Those of one site.")
        parser.add_argument("--state", choices=WorkerState.values, help="Those in one state.")
        change = parser.add_mutually_exclusive_group()
        for verb, effect in (
            ("drain", "Send it nothing new; what runs ends."),
            ("resume", "Send to it again."),
            ("revoke", "Never again."),
        ):
            change.add_argument(f"--{verb}", type=uuid_argument, metavar="ID", help=effect)

    def run(self, **options: Any) -> Facts | Sequence[Facts]:
        """List or change."""
        for verb, change in VERBS.items():
            if options[verb] is not None:
                worker = Worker.objects.filter(pk=options[verb]).first()
                if worker is None:
                    raise CommandError(f"There is no worker {options[verb]}.")
                change(command_actor(), worker)
                return line(Worker.objects.select_related("site").get(pk=worker.pk))
        chosen = {"site__slug": options["site"], "state": options["state"]}
        workers = Worker.objects.select_related("site").order_by("site__slug", "name")
        return [line(worker) for worker in workers.filter(**{k: v for k, v in chosen.items() if v is not None})]


def line(worker: Worker) -> Facts:
    """What is shown of one."""
    return {
        "id": worker.id,
        "site": worker.site.slug,
        "name": worker.name,
        "state": worker.state,
        "serves": [f"{served['deployment']} ({served['state']})" for served in worker.served],
        "refused": worker.refused,
        "last_seen_at": worker.last_seen_at,
    }
