"""Serve a version of a model under a name."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity.commands import command_actor
from kasbah.registry.services import get
from kasbah.serving import services
from kasbah.serving.commands import find_site


def json_object(text: str) -> dict[str, Any]:
    """A JSON object. Raises ArgumentTypeError."""
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArgumentTypeError("give a JSON object, such as '{\"max_model_len\": 4096}'")
    return value


class Command(KasbahCommand):
    """`manage.py createdeployment`."""

    help = "Serve an approved version of a model under a public name at some sites."
    epilog = "Example: manage.py createdeployment --name mixtral-8x7b --digest 3f0c... --site paris --site lyon"

    def arguments(self, parser: ArgumentParser) -> None:
        """What, where, how."""
        parser.add_argument("--name", required=True, help="What clients send as `model`.")
        parser.add_argument("--digest", required=True, help="Digest of an approved version.")
        parser.add_argument(
            "--site", required=True, action="append", metavar="SLUG", help="Where; may be given several times."
        )
        parser.add_argument(
            "--engine", type=json_object, default={}, metavar="JSON", help="Engine settings that differ from defaults."
        )

    def run(self, **options: Any) -> Facts:
        """Deploy it."""
        deployment = services.create_deployment(
            command_actor(),
            name=options["name"],
            model_version=get(options["digest"]),
            sites=[find_site(slug) for slug in options["site"]],
            engine_settings=options["engine"],
        )
        return {
            "id": deployment.id,
            "name": deployment.name,
            "sites": options["site"],
            "engine_settings": deployment.engine_settings,
        }
