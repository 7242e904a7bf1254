"""Forward the audit log to a SIEM: list, add, switch, remove and try destinations, and see how far each is."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError

from kasbah.audit.services import forwarding
from kasbah.common import rls
from kasbah.common.commands import Facts, KasbahCommand, read_secret
from kasbah.identity.commands import command_actor, find_tenant

VERBS = ["list", "status", "add", "enable", "disable", "remove", "test"]
SWITCHES = {"enable": forwarding.enable_forwarder, "disable": forwarding.disable_forwarder}


class Command(KasbahCommand):
    """`manage.py forwarders`."""

    help = (
        "List where the audit log is forwarded to (list), how far each destination is and what it last said (status); "
        "add one, switch it off and on, remove it, or send it one message and see what comes of it (test). The address "
        "must stand in KASBAH_EGRESS_ALLOW too."
    )
    epilog = "Example: manage.py forwarders add soc --kind syslog_tls --address siem.example.org:6514 --ca ca.pem"
    empty = "Nothing is forwarded. Add a destination with: manage.py forwarders add --help"

    def arguments(self, parser: ArgumentParser) -> None:
        """What to do, and what a new one is like."""
        parser.add_argument("verb", nargs="?", choices=VERBS, default="list", help="What to do (list).")
        parser.add_argument("name", nargs="?", help="The destination; for list and status all when left out.")
        parser.add_argument("--kind", choices=forwarding.Kind.values, help="How it is spoken to.")
        parser.add_argument("--address", metavar="ADDRESS", help="host:port for syslog_tls, a URL for ocsf_https.")
        parser.add_argument("--ca", type=Path, metavar="PATH", help="PEM: who signed the receiver's certificate.")
        parser.add_argument("--tenant", metavar="SLUG", help="Forward this tenant's log alone; else every log.")
        parser.add_argument("--from-start", action="store_true", help="Send what the logs have already, too.")
        parser.add_argument("--client-certificate", type=Path, metavar="PATH", help="PEM, where it asks for one.")
        parser.add_argument("--client-key", type=Path, metavar="PATH", help="PEM: the key of that certificate.")
        parser.add_argument("--header", default="", metavar="NAME", help="A header to send, such as Authorization.")
        parser.add_argument("--header-file", type=Path, metavar="PATH", help="File whose first line is its value.")

    def run(self, **options: Any) -> Facts | Sequence[Facts]:
        """Do it."""
        verb, name = options["verb"], options["name"]
        if verb in ("list", "status"):
            show = _config if verb == "list" else _status
            with rls.platform_scope():
                return [show(row) for row in _rows() if name in (None, row.name)]
        if not name:
            raise CommandError(f"Name the destination: manage.py forwarders {verb} NAME")
        if verb == "add":
            return self._add(name, options)
        row = _find(name)
        if verb == "test":
            tried = forwarding.try_forwarder(command_actor().ref, row)
            if not tried.taken:
                raise CommandError(tried.message)
            return {"name": row.name, "taken": True, "message": tried.message}
        if verb == "remove":
            forwarding.remove_forwarder(command_actor().ref, row)
            return {"name": row.name, "removed": True}
        return _config(SWITCHES[verb](command_actor().ref, row))

    def _add(self, name: str, options: dict[str, Any]) -> Facts:
        missing = [f"--{option}" for option in ("kind", "address", "ca") if not options[option]]
        if missing:
            raise CommandError(f"Give {', '.join(missing)}.")
        header = options["header_file"]
        row = forwarding.create_forwarder(
            command_actor().ref,
            name=name,
            kind=options["kind"],
            tenant_id=find_tenant(options["tenant"]).id if options["tenant"] else None,
            from_start=options["from_start"],
            address=options["address"],
            ca_certificate=_pem(options["ca"], "--ca"),
            client_certificate=_pem(options["client_certificate"], "--client-certificate"),
            client_key=_pem(options["client_key"], "--client-key"),
            header_name=options["header"],
            header_value=read_secret(header, "--header-file") if header else "",
        )
        return _config(row)


def _rows() -> Sequence[forwarding.Forwarder]:
    return list(forwarding.Forwarder.objects.order_by("name"))


def _find(name: str) -> forwarding.Forwarder:
    with rls.platform_scope():
        rows = {row.name: row for row in _rows()}
    if name not in rows:
        raise CommandError(f"There is no forwarder {name!r}. Known: {', '.join(rows) or 'none'}.")
    return rows[name]


def _pem(path: Path | None, option: str) -> str:
    try:
        return path.read_text(encoding="ascii") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{option}: cannot read {path}: {error}") from error


def _config(row: forwarding.Forwarder) -> Facts:
    return {
        "name": row.name,
        "kind": row.kind,
        "address": row.address,
        "logs": "all" if row.tenant_id is None else row.tenant_id,
        "enabled": row.enabled,
        "client_certificate": bool(row.client_certificate),
        "header": row.header_name,
    }


def _status(row: forwarding.Forwarder) -> Facts:
    return {
        "name": row.name,
        "enabled": row.enabled,
        "waiting": forwarding.waiting(row),
        "sent": row.sent,
        "pruned": row.pruned,
        "last_success_at": row.last_success_at,
        "failures": row.failures,
        "retry_at": row.retry_at,
        "last_error": row.last_error,
    }
