"""Django's entry for this app."""

from __future__ import annotations

from django.apps import AppConfig


class MeteringConfig(AppConfig):
    """See the package's docstring."""

    name = "kasbah.metering"
    default_auto_field = "django.db.models.BigAutoField"
