"""Writes docs/operator/commands.md from the commands' own parsers: python -m tests.api.commands_page."""

from __future__ import annotations

import argparse
import os
import sys

from django.core.management import get_commands, load_command_class
from django.core.management.base import BaseCommand

INTRODUCTION = """\
# Commands

`python manage.py COMMAND` on one machine, `docker compose run --rm manage COMMAND` in containers. Whoever can run them holds the installation's secrets, so they act as the platform itself; the audit log says `system` and the login name. Exit status 0: done; 1: refused, with one line on standard error that says why; 2: wrong arguments, a setting or file that is not what it must be. Characters that steer a terminal are printed as escapes, such as `\\x1b`. `--json` prints one JSON document instead of text.

This page is written from the commands' own `--help`, and a test compares the two. Django's own commands (`migrate`, `check` ...) are in its documentation.
"""  # noqa: E501


def render() -> str:
    """The page."""
    ours = sorted(name for name, app in get_commands().items() if app.startswith("kasbah."))
    return INTRODUCTION + "".join(_section(name, load_command_class(get_commands()[name], name)) for name in ours)


def _section(name: str, command: BaseCommand) -> str:
    parser = command.create_parser("manage.py", name)
    everybodys = {action.dest for action in BaseCommand().create_parser("manage.py", name)._actions} | {"json"}
    rows = [_row(action) for action in parser._actions if action.dest not in everybodys]
    table = "| option | meaning |\n| --- | --- |\n" + "\n".join(rows) + "\n" if rows else "No options of its own.\n"
    example = (parser.epilog or "").removeprefix("Example: ")
    return f"\n## {name}\n\n{parser.description}\n\n{table}\nExample: `{example}`\n"


def _row(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else f" {action.metavar or '|'.join(map(str, action.choices or ['TEXT']))}"
    name = action.option_strings[-1] if action.option_strings else action.dest  # the latter stands for itself
    flag = f"`{name}{value}`".replace("|", "\\|")
    shown = {"default": action.default} if "%(default)s" in (action.help or "") else {}
    text = (action.help or "") % shown
    return f"| {flag} | {text}{' Required.' if action.required else ''} |"


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "kasbah.config.settings")
    import django

    django.setup()
    sys.stdout.write(render())
