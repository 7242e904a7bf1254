"""The ASGI application: inference routes go to the gateway, everything else to Django, in one process.

Django's handler costs 1.3 ms a request, a plain ASGI route 0.1 ms (docs/decisions/0004), so the routes that
applications call all day do not pass through it.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kasbah.config.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application

from kasbah.common.checks import refuse_unsafe_role
from kasbah.config.bodies import BodyLimit

_django = BodyLimit(get_asgi_application(), settings.DATA_UPLOAD_MAX_MEMORY_SIZE)

from kasbah.gateway.app import PREFIXES, create_app

# Whatever server imports this, it does not serve in a role that row-level security does not hold.
refuse_unsafe_role()

_gateway = create_app()


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Route by path; the gateway owns the lifespan, because it holds the pools and readers."""
    if scope["type"] == "lifespan" or scope.get("path", "").startswith(PREFIXES):
        await _gateway(scope, receive, send)
    else:
        await _django(scope, receive, send)
