"""List the jobs of a tenant."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from kasbah.common.commands import Facts
from kasbah.common.numbers import number_argument
from kasbah.identity.commands import TenantCommand
from kasbah.identity.models import Tenant
from kasbah.serving.models import Job, JobState


class Command(TenantCommand):
    """`manage.py jobs`."""

    help = "List the newest jobs of a tenant: where they went and how they ended; never their content."
    epilog = "Example: manage.py jobs --tenant finance --state failed"
    empty = "No such job."

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        super().arguments(parser)
        parser.add_argument("--state", choices=JobState.values, help="Those in one state.")
        parser.add_argument(
            "--limit", type=number_argument(1, 1000), default=20, metavar="NUMBER", help="How many (%(default)s)."
        )

    def act(self, tenant: Tenant, **options: Any) -> Sequence[Facts]:
        """List them."""
        jobs = Job.objects.filter(tenant=tenant).select_related("deployment", "site").defer("payload").order_by("-id")
        if options["state"]:
            jobs = jobs.filter(state=options["state"])
        return [
            {
                "id": job.id,
                "request_id": job.request_id,
                "model": job.deployment.name,
                "data_class": job.data_class,
                "site": job.site.slug if job.site else None,
                "state": job.state,
                "attempt": job.attempt,
                "prompt_tokens": job.prompt_tokens,
                "completion_tokens": job.completion_tokens,
                "error_code": job.error_code,
                "created_at": job.created_at,
            }
            for job in jobs[: options["limit"]]
        ]
