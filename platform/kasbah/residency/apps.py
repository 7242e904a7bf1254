"""Django's entry for this app."""

from __future__ import annotations

from django.apps import AppConfig


class ResidencyConfig(AppConfig):
    """See the package's docstring."""

    name = "kasbah.residency"
    default_auto_field = "django.db.models.BigAutoField"
