"""Add a site."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from kasbah.common.commands import Facts, KasbahCommand, read_secret
from kasbah.identity.commands import command_actor
from kasbah.residency import services
from kasbah.residency.services.reachability import try_site


class Command(KasbahCommand):
    """`manage.py createsite`."""

    help = (
        "Add a site: a datacenter in one jurisdiction, with its own broker. Its sealing key is made here. Its broker "
        "and store are tried: the answer says what was found, and the site is added whatever that is."
    )
    epilog = "Example: manage.py createsite --slug paris --name Paris --jurisdiction FR --broker-file broker.txt"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        parser.add_argument("--slug", required=True, help="Names it in policies: lower-case letters, digits, hyphens.")
        parser.add_argument("--name", required=True, help="What people call it.")
        parser.add_argument("--jurisdiction", required=True, help="ISO 3166-1 alpha-2, such as FR.")
        parser.add_argument("--zone", default="", help="Zone of the organisation's network, for rules to name.")
        source = parser.add_mutually_exclusive_group(required=True)
        source.add_argument("--broker", metavar="URL", help="Address (redis, amqp), without a password.")
        source.add_argument("--broker-file", type=Path, metavar="PATH", help="File whose first line is the address.")
        store = parser.add_mutually_exclusive_group()
        store.add_argument("--store", metavar="URL", help="Its stream store (redis), where the broker is not that too.")
        store.add_argument("--store-file", type=Path, metavar="PATH", help="File whose first line is that address.")

    def run(self, **options: Any) -> Facts:
        """Add it."""
        site = services.create_site(
            command_actor(),
            slug=options["slug"],
            name=options["name"],
            jurisdiction=options["jurisdiction"].upper(),
            broker_url=options["broker"] or read_secret(options["broker_file"], "--broker-file"),
            zone=options["zone"],
            store_url=_store(options["store"], options["store_file"]),
        )
        made = {"id": site.id, "slug": site.slug, "name": site.name, "jurisdiction": site.jurisdiction}
        return made | try_site(site)


def _store(url: str | None, file: Path | None) -> str:
    return read_secret(file, "--store-file") if file is not None else url or ""
