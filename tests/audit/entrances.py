"""Finds every entrance: URL patterns of Django, paths of the gateway, Celery tasks, commands."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from django.core.management import get_commands
from django.urls import URLPattern, URLResolver, get_resolver

from kasbah.common.api import ManagementMixin
from kasbah.gateway import app as gateway
from kasbah.gateway.endpoints import ENDPOINTS

METHODS = ("get", "post", "put", "patch", "delete")


def entrances() -> set[str]:
    """All of them, named as in kasbah.audit.classified."""
    return {*of_django(get_resolver().url_patterns), *of_gateway(), *of_celery(), *of_commands()}


def of_django(patterns: Iterable[URLPattern | URLResolver], prefix: str = "/") -> Iterator[str]:
    """`METHOD /path`; `* /path` for a view that is none of the management API."""
    for pattern in patterns:
        path = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from of_django(pattern.url_patterns, path)
            continue
        view = getattr(pattern.callback, "cls", None)
        if view is None or not issubclass(view, ManagementMixin):
            yield f"* {path}"
            continue
        actions = getattr(pattern.callback, "actions", None) or [name for name in METHODS if hasattr(view, name)]
        for method in actions:
            if method != "head":  # answered by what answers GET
                yield f"{method.upper()} {path}"


def of_gateway() -> Iterator[str]:
    """Its table of endpoints, and every path that its router compares with."""
    for path in ENDPOINTS:
        yield f"POST {path}"
    tree = ast.parse(Path(gateway.__file__).read_text(encoding="utf-8"))
    router = next(node for node in ast.walk(tree) if getattr(node, "name", "") == "_route")
    for node in ast.walk(router):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/"):
            yield f"GET {node.value}"


def of_celery() -> Iterator[str]:
    """Tasks of the control plane's own Celery application, and everything that its clock starts."""
    from kasbah.config.celery import app

    app.loader.import_default_modules()
    scheduled = {entry["task"] for entry in app.conf.beat_schedule.values()}
    yield from (f"task {name}" for name in {*app.tasks, *scheduled} if not name.startswith("celery."))


def of_commands() -> Iterator[str]:
    """Commands of `manage.py` that are ours."""
    yield from (f"command {name}" for name, app in get_commands().items() if str(app).startswith("kasbah."))
