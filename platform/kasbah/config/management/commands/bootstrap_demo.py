"""Make what the demonstration needs: tenant, administrator, site, policy, model, deployment and key."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings

from kasbah.common import env
from kasbah.common.commands import Facts, KasbahCommand
from kasbah.config.demo import Wanted, bootstrap
from kasbah.config.preflight import demo_broker, demo_model
from kasbah.identity.commands import command_actor


class Command(KasbahCommand):
    """`manage.py bootstrap_demo`."""

    help = (
        "Make the demonstration's tenant, project, administrator, site, policy, model, deployment, key and enrolment "
        "token. What is there already is left as it is, so it can be run again. A password is shown when it is made, "
        "and never again."
    )
    epilog = "Example: manage.py bootstrap_demo --model-dir models/3f0c... --api-key-file demo-key.txt --json"

    def arguments(self, parser: ArgumentParser) -> None:
        """What may be chosen. Addresses with passwords come from settings: others can read arguments."""
        parser.add_argument("--jurisdiction", default="FR", help="Where this machine is (default: %(default)s).")
        parser.add_argument(
            "--broker",
            metavar="URL",
            help="Broker of the site (KASBAH_DEMO_BROKER_URL, else KASBAH_REDIS_URL).",
        )
        parser.add_argument(
            "--model-dir",
            type=Path,
            metavar="PATH",
            help="Folder of the demo model (default: KASBAH_DEMO_MODEL, a folder of KASBAH_MODELS_DIR).",
        )
        parser.add_argument(
            "--api-key-file",
            type=Path,
            metavar="PATH",
            help="Keeps the API key: one that is there and still good is used again, else a new one is written.",
        )
        parser.add_argument("--new-key", action="store_true", help="Issue a new API key although there is one.")

    def run(self, **options: Any) -> Facts:
        """Make it."""
        model = demo_model()
        wanted = Wanted(
            jurisdiction=options["jurisdiction"].upper(),
            broker_url=options["broker"] or demo_broker(),
            model_dir=options["model_dir"] or (Path(settings.MODELS_DIR) / model if model else None),
            key_file=options["api_key_file"],
            new_key=options["new_key"] or env.switch("DEMO_NEW_KEY", ""),
        )
        return bootstrap(command_actor(), wanted, self.say)
