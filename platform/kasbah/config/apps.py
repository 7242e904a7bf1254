"""Django's entry for the composition: it carries the start-up checks and the commands that span apps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from django.apps import AppConfig

if TYPE_CHECKING:
    from kasbah.serving.services import SettledJob


class CompositionConfig(AppConfig):
    """See the package's docstring."""

    name = "kasbah.config"
    label = "composition"

    def ready(self) -> None:
        """Connect apps that may not know each other, and Django's checks of the whole."""
        from kasbah.common import checks
        from kasbah.config import dossiers
        from kasbah.serving.services import on_settled

        on_settled(_meter)
        dossiers.connect()
        checks.register()


def _meter(jobs: Sequence[SettledJob]) -> None:
    """What housekeeping settles is metered like what the gateway settles."""
    from kasbah.metering.services import UsageRow, record_usage

    record_usage(
        [
            UsageRow(
                job_id=job.outcome.job_id,
                tenant_id=job.outcome.tenant_id,
                project_id=job.project_id,
                api_key_id=job.api_key_id,
                deployment=job.deployment,
                endpoint=job.endpoint,
                prompt_tokens=job.outcome.prompt_tokens,
                completion_tokens=job.outcome.completion_tokens,
                exact=job.outcome.exact,
            )
            for job in jobs
        ]
    )
