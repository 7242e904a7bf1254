"""Rotate keys without downtime."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError

from kasbah.common.commands import Facts, KasbahCommand, uuid_argument
from kasbah.common.numbers import number_argument
from kasbah.identity.commands import command_actor
from kasbah.identity.services import Actor
from kasbah.residency.models import Site
from kasbah.residency.services import signing_keys, site_keys
from kasbah.serving.models import Worker
from kasbah.serving.services import keys
from kasbah.serving.services.keys import Rotation

POLL = 0.5  # seconds


class Command(KasbahCommand):
    """`manage.py rotatekeys`."""

    help = (
        "Replace a key: ticket (signs tickets and assignments), site (payloads are sealed for it) or worker (a "
        "worker's own). The next key is told to the workers first and used once all live ones have it."
    )
    epilog = "Example: manage.py rotatekeys ticket --wait 30"

    def arguments(self, parser: ArgumentParser) -> None:
        """Which."""
        parser.add_argument("kind", choices=["ticket", "site", "worker"], help="Which kind of key.")
        parser.add_argument("--site", metavar="SLUG", help="With site: whose.")
        parser.add_argument("--worker", type=uuid_argument, metavar="ID", help="With worker: whose.")
        parser.add_argument("--status", action="store_true", help="Only tell how far a rotation is.")
        parser.add_argument(
            "--wait",
            type=number_argument(0, 86_400, "a number of seconds"),
            default=0,
            metavar="S",
            help="Wait so long until it is done.",
        )
        parser.add_argument("--force", action="store_true", help="Switch now, and tell which workers would refuse.")
        parser.add_argument("--revoke", metavar="KEY_ID", help="With ticket: never believe this key again.")

    def run(self, **options: Any) -> Facts:
        """Rotate."""
        actor, kind = command_actor(), options["kind"]
        if kind == "worker":
            return _worker(actor, options)
        if kind == "ticket" and options["revoke"]:
            key = signing_keys.revoke_signing_key(actor, options["revoke"])
            return {"key_id": key.key_id, "state": key.state}
        if kind == "ticket":
            return _turn(
                keys.signing_rotation,
                lambda: signing_keys.prepare_signing_key(actor),
                lambda found: signing_keys.switch_signing_key(actor, **keys.forced(found)),
                options,
            )
        site = Site.objects.filter(slug=options["site"]).first()
        if site is None:
            raise CommandError(f"There is no site {options['site']}." if options["site"] else "Name the site: --site.")
        return _turn(
            lambda: keys.site_rotation(site),
            lambda: site_keys.prepare_site_key(actor, site),
            lambda found: site_keys.switch_site_key(actor, site, **keys.forced(found)),
            options,
        )


def _turn(
    look: Callable[[], Rotation], begin: Callable[[], Any], force: Callable[[Rotation], Any], options: dict[str, Any]
) -> Facts:
    if options["status"]:
        return facts(look())
    if not look().following:
        begin()
    if options["force"]:
        before = look()
        force(before)
        return {**facts(look()), "would_refuse": named(before.missing)}
    deadline = time.monotonic() + options["wait"]
    while (found := look()).following and time.monotonic() < deadline:
        time.sleep(POLL)
    if found.following and options["wait"]:
        raise CommandError(
            f"Key {found.following} is not in use yet: {len(found.missing)} live workers have not taken it over"
            f" ({', '.join(named(found.missing)) or 'is housekeeping running?'}). It goes on by itself; look with"
            " --status, or switch with --force."
        )
    return facts(found)


def _worker(actor: Actor, options: dict[str, Any]) -> Facts:
    worker = Worker.objects.filter(pk=options["worker"]).first()
    if worker is None:
        raise CommandError(f"There is no worker {options['worker']}." if options["worker"] else "Name it: --worker.")
    if not options["status"]:
        worker = keys.ask_rotation(actor, worker)
    return {"worker": worker.name, "waits_for_the_worker": worker.must_rotate}


def facts(rotation: Rotation) -> Facts:
    """What is shown of a rotation."""
    return {
        "current": rotation.current,
        "next": rotation.following,
        "have_it": named(rotation.acknowledged),
        "missing": named(rotation.missing),
    }


def named(workers: tuple[Worker, ...]) -> list[str]:
    """Names with their sites."""
    return [f"{worker.name} ({worker.site.slug})" for worker in workers]
