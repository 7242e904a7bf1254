"""Reads settings and files of secrets: one function for the control plane, its commands, the workers and infra.local.

    value = read("BROKER_URL")          # KASBAH_BROKER_URL, else the file broker_url of KASBAH_SECRETS_DIR, else None

A secret is one line of UTF-8. What an editor or a shell adds to it without being seen (a byte order mark, CR, NUL,
UTF-16) would become part of a password, so it is refused by its name. No message repeats a value, and no exception
that could carry one is chained to what is raised. Only the standard library.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

LARGEST = 64 * 1024  # bytes of a file of one secret
SECRETS_DIR = "KASBAH_SECRETS_DIR"
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")  # those of UTF-32 begin or continue alike
BOM = "\ufeff"
DIGITS = re.compile(r"[0-9]{1,18}")
DECIMAL = re.compile(r"[0-9]{1,12}(\.[0-9]{1,9})?")
SHOWN = 60  # characters of a wrong value that a message repeats; only of settings that are no secret
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
WRITE_AS = "in a user name or password write % as %25, # as %23, / as %2F, ? as %3F, : as %3A and @ as %40"


class SettingError(ValueError):
    """A setting or a file of a secret cannot be used; the message names it, says the way out, and repeats no value."""


class SettingInvalid(SettingError):
    """A setting is there, but is not what it must be."""


def read(name: str) -> str | None:
    """The setting `name` (upper case, without KASBAH_): of the environment, else of the folder, else None.

    Raises SettingError for what is no line of text, and for a file that cannot be read.
    """
    if (found := os.environ.get(f"KASBAH_{name}")) is not None:
        return line(os.fsencode(found), f"KASBAH_{name}")
    folder = os.environ.get(SECRETS_DIR)
    if not folder:
        return None
    path = Path(folder) / name.lower()
    try:
        return read_file(path, f"KASBAH_{name}")
    except FileNotFoundError:
        return None


def read_file(path: Path, source: str) -> str:
    """The one line of a file. `source` is how the one who gave the file called it, for the message.

    Raises SettingError, and FileNotFoundError where there is none.
    """
    shown = f"{source}: the file {path}"
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise SettingError(f"{shown} cannot be read: {getattr(error, 'strerror', None) or 'bad path'}") from None
    if len(content) > LARGEST:
        raise SettingError(f"{shown} has more than {LARGEST} bytes; it must hold one line")
    return line(content, shown)


def line(content: bytes, source: str) -> str:
    """The line that `content` holds, without its end and the blanks around it. Raises SettingError naming `source`."""
    if content.startswith(UTF16_MARKS) or b"\0" in content:
        raise SettingError(f"{source} is UTF-16 or binary (it has a NUL or UTF-16's mark); write it as UTF-8")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise SettingError(f"{source} is not UTF-8; write it as UTF-8") from None
    if BOM in text:
        raise SettingError(f"{source} has a byte order mark (BOM, U+FEFF); write it as UTF-8 without one")
    if "\r" in text:
        raise SettingError(f"{source} has a carriage return (CR, CRLF); end its line with LF alone")
    text = text.removesuffix("\n")
    if "\n" in text.strip("\n"):
        raise SettingError(f"{source} has more than one line; it must hold one")
    text = text.strip("\n")
    if (found := CONTROL.search(text.strip())) is not None:
        raise SettingError(f"{source} has the control character U+{ord(found[0]):04X}; take it out")
    return text.strip()


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises SettingError for an argument of a command line that is not UTF-8, or holds a control character.

    Python passes bytes that are no UTF-8 on as surrogates, which neither a database nor a terminal takes.
    """
    for index, argument in enumerate(arguments[1:], 1):
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise SettingError(f"argument {index} ({argument[:SHOWN]!a}) is not UTF-8; give it as UTF-8") from None
        if CONTROL.search(argument):
            raise SettingError(f"argument {index} ({argument[:SHOWN]!a}) has a control character; leave it out")


@contextlib.contextmanager
def exit_on_wrong_setting() -> Iterator[None]:
    """Ends the process with status 2 and one line on standard error when a setting or an argument is wrong."""
    try:
        yield
    except SettingError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def integer(name: str, default: int, *, least: int, most: int) -> int:
    """The setting `name` as a whole number from `least` to `most`. Raises SettingInvalid."""
    found = read(name)
    if found is None:
        return default
    if DIGITS.fullmatch(found) is None or not least <= int(found) <= most:
        raise invalid(name, f"a whole number from {least} to {most}", found)
    return int(found)


def number(name: str, default: float, *, least: float, most: float) -> float:
    """The setting `name` as a number from `least` to `most`, in plain decimals. Raises SettingInvalid."""
    found = read(name)
    if found is None:
        return default
    if DECIMAL.fullmatch(found) is None or not least <= float(found) <= most:
        raise invalid(name, f"a number from {least:g} to {most:g}", found)
    return float(found)


def invalid(name: str, wanted: str, found: str) -> SettingInvalid:
    """The error for a value that is no secret, which it repeats in part."""
    shown = f"{found[:SHOWN]!a}{' ...' if len(found) > SHOWN else ''}"
    return SettingInvalid(f"KASBAH_{name} is {shown}; it must be {wanted}")


def check_address(url: str, schemes: tuple[str, ...], source: str) -> str:
    """`url` when it is a sound address of one of `schemes`. Raises SettingError, which names `source` and no value.

    A # or / in a password would end the address there: the rest of the password would count as its path.
    """
    known = ", ".join(f"{scheme}://" for scheme in schemes)
    scheme = url.partition("://")[0]
    if scheme not in schemes:
        raise SettingError(f"{source} must be an address that begins with one of {known}")
    try:
        parts = urlsplit(url)
        sound = parts.port != 0 and parts.netloc.count("@") <= 1
    except ValueError:  # its text quotes what it took for the port or the host: a part of the password
        sound = False
    if not sound or "#" in url or BAD_ESCAPE.search(url) or CONTROL.search(unquote(url)) or " " in url:
        raise SettingError(f"{source} cannot be read as an address: it is {known}USER:PASSWORD@HOST:PORT/..., and "
                           f"{WRITE_AS}")  # fmt: skip
    return url
