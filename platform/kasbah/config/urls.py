"""Every URL of the control plane that Django serves. The gateway's routes are in kasbah.gateway.app."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver

urlpatterns: list[URLPattern | URLResolver] = []
