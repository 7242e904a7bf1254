"""Django's entry for this app."""

from __future__ import annotations

from django.apps import AppConfig


class ServingConfig(AppConfig):
    """See the package's docstring."""

    name = "kasbah.serving"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Have the sites' app ask this one before a site is retired."""
        from kasbah.residency.services.sites import register_site_use
        from kasbah.serving.services.site_use import needs_of

        register_site_use(needs_of)
