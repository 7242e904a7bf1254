"""Create a user."""

from __future__ import annotations

import getpass
import secrets
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from kasbah.common.commands import Facts, KasbahCommand, read_secret
from kasbah.identity import services
from kasbah.identity.commands import command_actor


class Command(KasbahCommand):
    """`manage.py createuser`."""

    help = (
        "Create a user. The password is asked for, read from a file, or made and shown once; it is never an argument, "
        "because others on the machine can read those."
    )
    epilog = "Example: manage.py createuser --email ada@example.org --platform-admin --generate-password"

    def arguments(self, parser: ArgumentParser) -> None:
        """Who."""
        parser.add_argument("--email", required=True, help="Address to log in with.")
        parser.add_argument("--name", default="", help="Name for people.")
        parser.add_argument("--platform-admin", action="store_true", help="Stands above all tenants.")
        source = parser.add_mutually_exclusive_group()
        source.add_argument("--password-file", type=Path, metavar="PATH", help="First line is the password.")
        source.add_argument("--generate-password", action="store_true", help="Make one and show it this once.")

    def run(self, **options: Any) -> Facts:
        """Create him."""
        password = self._password(options["password_file"], options["generate_password"])
        user = services.create_user(
            command_actor(),
            email=options["email"],
            password=password,
            name=options["name"],
            is_platform_admin=options["platform_admin"],
        )
        shown = {"password": password} if options["generate_password"] else {}
        return {"id": user.id, "email": user.email, "platform_admin": user.is_platform_admin, **shown}

    def _password(self, file: Path | None, generate: bool) -> str:
        if generate:
            return secrets.token_urlsafe(18)
        if file is not None:
            return read_secret(file, "--password-file")
        if not sys.stdin.isatty():
            raise CommandError("No terminal to ask for a password: give --password-file or --generate-password.")
        password = getpass.getpass("Password: ")
        if password != getpass.getpass("Again: "):
            raise CommandError("The two passwords differ.")
        return password
