"""List sites; cordon, drain, resume or retire one."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from typing import Any

from django.core.management.base import CommandError

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity.commands import command_actor
from kasbah.residency import services
from kasbah.residency.models import Site, SiteHealth

VERBS = {
    "cordon": services.cordon_site,
    "drain": services.drain_site,
    "resume": services.resume_site,
    "retire": services.retire_site,
}


class Command(KasbahCommand):
    """`manage.py sites`."""

    help = (
        "List sites with what was last found there; cordon (no new jobs are sent there), drain (its engines stop too "
        "once nothing runs), resume or retire one. A retired site is history alone; that cannot be undone."
    )
    epilog = "Example: manage.py sites cordon paris"
    empty = "There is no site. Add one with: manage.py createsite --help"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        parser.add_argument("verb", nargs="?", choices=["list", *VERBS], default="list", help="What to do (list).")
        parser.add_argument("slug", nargs="?", help="The site; not for list.")

    def run(self, **options: Any) -> Facts | Sequence[Facts]:
        """List or change."""
        verb, slug = options["verb"], options["slug"]
        sites = Site.objects.select_related("health").order_by("slug")
        if verb == "list":
            return [line(site) for site in (sites if slug is None else sites.filter(slug=slug))]
        site = sites.filter(slug=slug).first()
        if site is None:
            known = ", ".join(sites.values_list("slug", flat=True)[:20])
            raise CommandError(f"There is no site {slug!r}. Known: {known or 'none'}.")
        return line(VERBS[verb](command_actor(), site))


def line(site: Site) -> Facts:
    """What is shown of one."""
    found: SiteHealth = getattr(site, "health", None) or SiteHealth(site=site)
    return {
        "slug": site.slug,
        "jurisdiction": site.jurisdiction,
        "zone": site.zone,
        "state": site.state,
        "life": found.life,
        "workers": f"{found.alive} of {found.workers}",
        "running": f"{found.running} of {found.capacity}",
        "broker": found.broker_state,
        "store": found.store_state,
        "trouble": found.troubles,
        "checked_at": found.checked_at,
    }
