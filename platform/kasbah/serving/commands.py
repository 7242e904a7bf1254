"""What commands share: how a site and a deployment are named."""

from __future__ import annotations

from django.core.management.base import CommandError

from kasbah.common.references import by_reference
from kasbah.residency.models import Site
from kasbah.serving.models import Deployment


def find_site(slug: str) -> Site:
    """The site. Raises CommandError that names those that exist."""
    found: Site | None = by_reference(Site.objects.all(), slug, "slug")
    if found is None:
        known = ", ".join(Site.objects.order_by("slug").values_list("slug", flat=True)[:20])
        raise CommandError(f"There is no site {slug!r}. Known: {known or 'none; add one with createsite'}.")
    return found


def find_deployment(name: str) -> Deployment:
    """The deployment. Raises CommandError that names those that exist."""
    found: Deployment | None = by_reference(Deployment.objects.all(), name, "name")
    if found is None:
        known = ", ".join(Deployment.objects.order_by("name").values_list("name", flat=True)[:20])
        raise CommandError(
            f"There is no deployment {name!r}. Known: {known or 'none; make one with createdeployment'}."
        )
    return found
