"""What every `manage.py` command shares: one way to report an error, `--json`, a table for people.

Whoever may run commands holds the installation's secrets, so a command acts as the platform's administrator; the
audit event says `system` and the login name of the machine.
"""

from __future__ import annotations

import getpass
import json
import os
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from inference_worker.contract.printable import escaped, escaped_json
from inference_worker.contract.settings import read_file
from kasbah.common.api_errors import HEARERS, translate
from kasbah.common.env import SettingError
from kasbah.common.errors import KasbahError

Facts = Mapping[str, Any]
WIDTH = 160  # characters of a line in a table
NARROWEST = 16  # characters that a cell keeps at least
LONGEST_LOGIN = 64  # characters


class KasbahCommand(BaseCommand):
    """Subclasses give `help`, `epilog` (an example), `arguments` and `run`, which answers facts, many or a text."""

    epilog: ClassVar[str] = ""
    empty: ClassVar[str] = "There are none."  # what a list command says when there is nothing

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """The parser, with the example at its end."""
        return super().create_parser(prog_name, subcommand, epilog=self.epilog, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        """Django's hook."""
        self.arguments(parser)
        parser.add_argument("--json", action="store_true", help="Print one JSON document, uncut.")

    def arguments(self, parser: ArgumentParser) -> None:
        """Declare what the command takes."""

    def run(self, **options: Any) -> Facts | Sequence[Facts] | str:
        """Do it. A text is printed as it is."""
        raise NotImplementedError

    def handle(self, *args: Any, **options: Any) -> str | None:
        """Run, report, and turn errors into one line on standard error with exit status 1."""
        as_json = options.pop("json")
        try:
            result = self.run(as_json=as_json, **options)
        except (KasbahError, ValidationError, DatabaseError) as error:
            for hear in HEARERS:
                hear(translate(error), {"command": type(self).__module__.rpartition(".")[2]})
            raise CommandError(escaped(self._reason(error), lines=True)) from error
        except SettingError as error:
            raise CommandError(escaped(str(error)), returncode=2) from None
        except CommandError as error:
            raise CommandError(escaped(str(error), lines=True), returncode=error.returncode) from error
        if isinstance(result, str):
            self.stdout.write(escaped(result, lines=True), ending="")
        elif as_json:
            self.stdout.write(escaped_json(json.dumps(result, default=plain, indent=2, ensure_ascii=False)))
        else:
            self.stdout.write(lines(result) if isinstance(result, Mapping) else table(result, self.empty))
        return None

    def say(self, text: str) -> None:
        """One line on standard error, about what is being done."""
        self.stderr.write(escaped(text))

    def _reason(self, error: Exception) -> str:
        known = translate(error)
        if isinstance(error, DatabaseError) and known.status >= 500:
            return f"The database refused or is away: {str(error).strip()}"
        return f"{known.param}: {known.message}" if known.param else known.message


def plain(value: Any) -> str | list[Any]:
    """JSON of what JSON has not."""
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def text(value: Any) -> str:
    """A cell for people: one line, whatever stands in the value."""
    return escaped(_text(value))


def _text(value: Any) -> str:
    if value is None or value in ("", [], ()):
        return "-"
    if isinstance(value, (list, tuple)) and all(isinstance(item, (str, UUID)) for item in value):
        return ", ".join(map(str, value))
    return json.dumps(value, default=plain, ensure_ascii=False) if isinstance(value, (dict, list)) else _cell(value)


def _cell(value: Any) -> str:
    return str(plain(value.replace(microsecond=0))) if isinstance(value, datetime) else str(value)


def lines(facts: Facts) -> str:
    """One `name  value` line each."""
    width = max(map(len, facts), default=0)
    return "\n".join(f"{name.replace('_', ' '):<{width}}  {text(value)}" for name, value in facts.items())


def table(rows: Sequence[Facts], empty: str) -> str:
    """Columns within WIDTH: prose is cut (…) where it must be, what people copy never; or else a block a row."""
    if not rows:
        return empty
    names = list(rows[0])
    cells = [[name.replace("_", " ").upper() for name in names], *([text(row[name]) for name in names] for row in rows)]
    columns = list(zip(*cells, strict=True))
    widths = _fitted([max(map(len, column)) for column in columns], [_least(column) for column in columns])
    if widths is None:
        return "\n\n".join(map(lines, rows))
    return "\n".join("  ".join(_cut(c, w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def _fitted(widths: list[int], least: list[int]) -> list[int] | None:
    """Widths that fit, the widest made narrower first; None where they cannot."""
    too_much = sum(widths) + 2 * (len(widths) - 1) - WIDTH
    while too_much > 0:
        room = [width - floor for width, floor in zip(widths, least, strict=True)]
        widest = max((i for i in range(len(widths)) if room[i] > 0), key=lambda i: widths[i], default=None)
        if widest is None:
            return None
        widths[widest] -= 1
        too_much -= 1
    return widths


def _least(column: tuple[str, ...]) -> int:
    """How narrow a column may become: its heading stays whole, and so does a word: ids, digests, names are copied."""
    kept = [cell for cell in column[1:] if " " not in cell]
    return min(max(map(len, column)), max(NARROWEST, len(column[0]), *map(len, kept), 0))


def _cut(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else cell[: width - 1] + "…"


def operator() -> str:
    """The login name of the machine's user who runs the command."""
    try:
        return escaped(getpass.getuser())[:LONGEST_LOGIN]  # an environment variable may name it
    except (KeyError, OSError):
        return "unknown"


def uuid_argument(value: str) -> UUID:
    """An id. Raises ArgumentTypeError."""
    try:
        return UUID(value)
    except ValueError as error:
        raise ArgumentTypeError(f"{value!r} is not an id such as 0199c1f2-7a3b-7c4d-8e5f-0123456789ab") from error


def read_secret(path: Path, option: str) -> str:
    """The one line of a file. Raises CommandError, which repeats nothing of it."""
    try:
        found = read_file(path, option)
    except FileNotFoundError:
        raise CommandError(f"{option}: there is no file {path}", returncode=2) from None
    except SettingError as error:
        raise CommandError(str(error), returncode=2) from None
    if not found:
        raise CommandError(f"{option}: the file {path} is empty; it must hold one line", returncode=2)
    return found


def write_secret(path: Path, secret: str) -> None:
    """Write `secret` to a new file that only its owner can read. Raises CommandError."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(secret + "\n")
    except FileExistsError as error:
        raise CommandError(f"{path} exists already; it was left as it is. Name another file.") from error
    except OSError as error:
        raise CommandError(f"Cannot write {path}: {error.strerror or error}") from error
