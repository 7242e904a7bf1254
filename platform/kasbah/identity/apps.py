"""Django's entry for this app."""

from __future__ import annotations

from django.apps import AppConfig


class IdentityConfig(AppConfig):
    """See the package's docstring."""

    name = "kasbah.identity"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Once models are loaded."""
        from kasbah.identity.services import logins

        logins.connect()
