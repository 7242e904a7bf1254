"""Django's entry for this app."""

from __future__ import annotations

from django.apps import AppConfig


class IdentityConfig(AppConfig):
    """See the package's docstring."""

    name = "kasbah.identity"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Once models are loaded."""
        from kasbah.common import api_errors
        from kasbah.identity import denials
        from kasbah.identity.services import logins

        logins.connect()
        if denials.note not in api_errors.HEARERS:
            api_errors.HEARERS.append(denials.note)
