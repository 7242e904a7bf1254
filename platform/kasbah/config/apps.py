"""Django's entry for the composition: it carries the start-up checks and the commands that span apps."""

from __future__ import annotations

from django.apps import AppConfig


class CompositionConfig(AppConfig):
    """See the package's docstring."""

    name = "kasbah.config"
    label = "composition"
