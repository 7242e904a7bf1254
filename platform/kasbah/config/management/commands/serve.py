"""Serve the control plane: the gateway's routes and the management API, in one process."""

from __future__ import annotations

import socket
from argparse import ArgumentParser
from typing import Any

import uvicorn
from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections
from django.db.migrations.executor import MigrationExecutor

from kasbah.audit.services import clusters
from kasbah.common import env
from kasbah.common.checks import UnsafeDatabase, refuse_unsafe_role
from kasbah.common.commands import Facts, KasbahCommand
from kasbah.common.numbers import number_argument
from kasbah.common.stores import ForgetfulStore, refuse_forgetful
from kasbah.config import noted
from kasbah.config.http_server import IDLE_TIMEOUT, BoundedProtocol, connection_limit
from kasbah.config.preflight import check_settings, trusted_proxies

GRACE = 10  # seconds that open streams have to end after SIGTERM
BACKLOG = 2048


class Command(KasbahCommand):
    """`manage.py serve`."""

    help = (
        "Serve the control plane on HTTP until SIGTERM or Ctrl-C. Before it listens it checks the settings, the "
        "migrations and that its database role is a weak one. TLS belongs to the proxy in front."
    )
    epilog = "Example: manage.py serve --host 127.0.0.1 --port 8080"

    def arguments(self, parser: ArgumentParser) -> None:
        """Where to listen."""
        host, number = env.endpoint("BIND", "127.0.0.1:8080")
        parser.add_argument("--host", default=host, help="Address to listen on (default: %(default)s, KASBAH_BIND).")
        parser.add_argument(
            "--port",
            type=number_argument(0, 65535, "a port"),
            default=number,
            help="Port, 0: any that is free (default: %(default)s, KASBAH_BIND).",
        )
        parser.add_argument(
            "--trust-proxy",
            default=env.value("TRUSTED_PROXIES", ""),
            metavar="ADDRESSES",
            help="Proxies whose X-Forwarded-For is believed, separated by commas (KASBAH_TRUSTED_PROXIES).",
        )

    def run(self, **options: Any) -> Facts:
        """Check, listen, serve."""
        refuse_unready()
        trusted_proxies(options["trust_proxy"])
        noted.note("serve")
        listener = listen(options["host"], options["port"])
        bound = listener.getsockname()
        shown = f"[{bound[0]}]" if listener.family == socket.AF_INET6 else bound[0]
        self.say(f"Serving on http://{shown}:{bound[1]}")
        BoundedProtocol.most = connection_limit()
        server = uvicorn.Server(
            uvicorn.Config(
                "kasbah.config.asgi:application",
                loop="uvloop",
                http=BoundedProtocol,
                ws="none",
                lifespan="on",
                log_config=None,  # Django's settings have it
                access_log=False,
                server_header=False,
                proxy_headers=bool(options["trust_proxy"]),
                forwarded_allow_ips=options["trust_proxy"] or None,
                timeout_keep_alive=IDLE_TIMEOUT,
                timeout_graceful_shutdown=GRACE,
            )
        )
        server.run(sockets=[listener])
        if not server.started:
            raise CommandError("The control plane did not start; the reason is in the log above.")
        return {"served_on": f"{shown}:{bound[1]}"}


def refuse_unready() -> None:
    """Raises CommandError with the way out when the database is away, unsafe or not migrated.

    Raises SettingError for a wrong setting.
    """
    check_settings()
    try:
        refuse_unsafe_role()
        connection = connections[DEFAULT_DB_ALIAS]
        executor = MigrationExecutor(connection)
        missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
        connection.close()
    except DatabaseError as error:
        raise CommandError(f"The database cannot be reached: {str(error).strip()}") from error
    except UnsafeDatabase as error:
        raise CommandError(str(error)) from error
    if not missing:
        _refuse_unsafe_parts()
    else:
        names = ", ".join(f"{migration.app_label}.{migration.name}" for migration, _ in missing[:3])
        raise CommandError(f"The database lacks {len(missing)} migrations ({names} ...). Run: python manage.py migrate")


def _refuse_unsafe_parts() -> None:
    try:
        clusters.refuse_other()
        refuse_forgetful()
    except (UnsafeDatabase, ForgetfulStore) as error:
        raise CommandError(str(error)) from error


def listen(host: str, number: int) -> socket.socket:
    """A listening socket. Raises CommandError when the address is taken or not ours."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, number), family=family, backlog=BACKLOG)
    except OSError as error:
        raise CommandError(
            f"Cannot listen on {host} port {number}: {error.strerror or error}. Choose another with --port, or end "
            "what uses it."
        ) from error
