"""The ASGI application: inference routes go to the gateway, everything else to Django, in one process.

Django's handler costs 1.3 ms a request, a plain ASGI route 0.1 ms (docs/decisions/0004), so the routes that
applications call all day do not pass through it.
"""

from __future__ import annotations

import os

os.umask(0o077)  # what a server writes is for its own account
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kasbah.config.settings")

from django.conf import settings
from django.core.asgi import get_asgi_application

from kasbah.common.checks import refuse_unsafe_role
from kasbah.common.env import exit_on_wrong_setting
from kasbah.common.stores import refuse_forgetful

with exit_on_wrong_setting():
    _django = get_asgi_application()

from kasbah.audit.services import clusters
from kasbah.config.front import Front
from kasbah.config.preflight import check_settings
from kasbah.gateway.app import create_app

with exit_on_wrong_setting():
    check_settings()
# Whatever server imports this, it does not serve in a role that row-level security does not hold, nor on a database
# that was moved and that nobody vouched for.
refuse_unsafe_role()
clusters.refuse_other()
refuse_forgetful()

application = Front(create_app(), _django, settings.DATABASE_POOL)
