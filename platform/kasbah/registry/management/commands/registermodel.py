"""Bring a version of a model into the registry."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from kasbah.common.commands import Facts, KasbahCommand
from kasbah.identity.commands import acting_person, command_actor
from kasbah.registry import services
from kasbah.registry.services import Progress

STEP = 5  # percent between two lines


class Command(KasbahCommand):
    """`manage.py registermodel`."""

    help = (
        "Look at a model's folder, hash every file, keep it under its digest, and enter it as scanned. The folder "
        "stays as it is. Somebody else approves it then, with approveversion."
    )
    epilog = (
        "Example: manage.py registermodel --folder mixtral --name mixtral-8x7b --publisher 'Mistral AI' "
        "--licence Apache-2.0 --family mixtral --by ada@example.org"
    )

    def arguments(self, parser: ArgumentParser) -> None:
        """What it is."""
        parser.add_argument(
            "--folder", required=True, type=Path, metavar="PATH", help="safetensors, config, tokenizer."
        )
        parser.add_argument("--name", required=True, help="Name of the model: lower-case letters, digits, hyphens.")
        parser.add_argument("--publisher", required=True, help="Who made it.")
        parser.add_argument("--licence", required=True, help="SPDX identifier where there is one.")
        parser.add_argument("--family", required=True, help="Such as mixtral.")
        parser.add_argument("--by", metavar="EMAIL", help="Who brings it in; that person cannot approve it.")

    def run(self, **options: Any) -> Facts:
        """Register it."""
        self._step, self._shown = "", -STEP
        version = services.register_version(
            acting_person(options["by"]) if options["by"] else command_actor(),
            name=options["name"],
            publisher=options["publisher"],
            licence=options["licence"],
            family=options["family"],
            folder=options["folder"],
            progress=self._progress,
        )
        return {
            "id": version.id,
            "model": version.model.name,
            "digest": version.digest,
            "stage": version.stage,
            "bytes": version.size,
            "topology": version.topology,
        }

    def _progress(self, progress: Progress) -> None:
        percent = progress.done * 100 // max(progress.total, 1)
        if progress.step != self._step or percent - self._shown >= STEP:
            self._step, self._shown = progress.step, percent
            done, total = progress.done / 2**20, progress.total / 2**20
            self.say(f"{progress.step} {percent:3d} %  {done:,.0f} of {total:,.0f} MiB")
