"""Issue a token with which a worker joins a site."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from kasbah.common.commands import Facts, KasbahCommand, write_secret
from kasbah.identity.commands import command_actor
from kasbah.serving import services
from kasbah.serving.commands import find_site


class Command(KasbahCommand):
    """`manage.py enroltoken`."""

    help = "Issue a one-time token with which one worker joins a site, within a day. It is shown this once."
    epilog = "Example: manage.py enroltoken --site paris --token-file enrol.txt"

    def arguments(self, parser: ArgumentParser) -> None:
        """Where."""
        parser.add_argument("--site", required=True, metavar="SLUG", help="Site that the worker joins.")
        parser.add_argument("--preapproved", action="store_true", help="Let the worker in without an approval.")
        parser.add_argument("--token-file", type=Path, metavar="PATH", help="Write it there (mode 600), not here.")

    def run(self, **options: Any) -> Facts:
        """Issue it."""
        site = find_site(options["site"])
        issued = services.create_enrolment_token(command_actor(), site, preapproved=options["preapproved"])
        facts = {"id": issued.row.id, "site": options["site"], "preapproved": issued.row.preapproved}
        facts["expires_at"] = issued.row.expires_at
        if options["token_file"] is None:
            return facts | {"token": issued.text}
        write_secret(options["token_file"], issued.text)
        return facts | {"token_file": str(options["token_file"])}
