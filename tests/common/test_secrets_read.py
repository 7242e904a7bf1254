"""Secrets are read by one function: what would silently become part of a password is refused by its name."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management.base import CommandError

from inference_worker import config
from inference_worker.contract import settings
from inference_worker.contract.settings import SettingError
from infra.local import secrets as local_secrets
from kasbah.common import env
from kasbah.common.commands import read_secret

HIDDEN = "hunter2"
WRONG = {
    "bom": (b"\xef\xbb\xbfhunter2\n", "byte order mark"),
    "bom inside": (b"hun\xef\xbb\xbfhunter2\n", "byte order mark"),
    "utf-16": ("\ufeffhunter2\n".encode("utf-16-le"), "UTF-16"),
    "utf-16 be": ("\ufeffhunter2\n".encode("utf-16-be"), "UTF-16"),
    "utf-16 without mark": ("hunter2\n".encode("utf-16-le"), "UTF-16"),
    "utf-32": ("\ufeffhunter2\n".encode("utf-32"), "UTF-16"),
    "crlf": (b"hunter2\r\n", "CRLF"),
    "cr": (b"hunter2\r", "CRLF"),
    "latin-1": (b"hunter2\xe9\n", "not UTF-8"),
    "two lines": (b"hunter2\nhunter2\n", "more than one line"),
    "escape": (b"hunter2\x1b[2J\n", "U+001B"),
    "next line": ("hunter2\u0085x\n".encode(), "U+0085"),
    "separator": ("hunter2\u2028x\n".encode(), "U+2028"),
    "large": (b"hunter2" * 20_000, "65536 bytes"),
}


def of_control_plane(path: Path) -> str:
    return env.value(path.name.upper())


def of_worker(path: Path) -> str:
    return config.secret(path.name.upper())


def of_command(path: Path) -> str:
    return read_secret(path, "--password-file")


def of_one_machine(path: Path) -> str:
    return local_secrets.once(path, lambda: "made anew")


READERS = (of_control_plane, of_worker, of_command, of_one_machine)


@pytest.fixture
def secret_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where KASBAH_SOME_SECRET is looked for."""
    monkeypatch.setenv("KASBAH_SECRETS_DIR", str(tmp_path))
    return tmp_path / "some_secret"


@pytest.mark.parametrize("content", [b"hunter2", b"hunter2\n", b"hunter2\n\n", b" hunter2 \n"])
@pytest.mark.parametrize("read", READERS)
def test_a_line_of_text_is_read_without_its_end(read: Callable[[Path], str], content: bytes, secret_file: Path) -> None:
    secret_file.write_bytes(content)
    assert read(secret_file) == HIDDEN


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("read", READERS)
def test_what_is_no_line_of_text_is_refused_by_name_and_not_quoted(
    read: Callable[[Path], str], kind: str, secret_file: Path
) -> None:
    content, says = WRONG[kind]
    secret_file.write_bytes(content)
    with pytest.raises((SettingError, CommandError)) as refused:
        read(secret_file)
    said = "".join(traceback.format_exception(refused.value))
    assert says in str(refused.value)
    assert str(secret_file) in str(refused.value)
    assert HIDDEN not in said.replace(Path(__file__).name, "")
    assert secret_file.read_bytes() == content  # it was left as it was


@pytest.mark.parametrize("read", READERS)
def test_a_folder_and_an_unreadable_file_are_named(
    read: Callable[[Path], str], secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret_file.mkdir()
    with pytest.raises((SettingError, CommandError), match="Is a directory"):
        read(secret_file)
    secret_file.rmdir()
    secret_file.write_text(HIDDEN)

    def refuse(*_args: Any, **_more: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root may read whatever its mode says
    with pytest.raises((SettingError, CommandError), match="Permission denied"):
        read(secret_file)


def test_a_file_that_is_not_there_is_named(secret_file: Path) -> None:
    with pytest.raises(CommandError, match="--password-file: there is no file"):
        of_command(secret_file)
    with pytest.raises(env.SettingMissing, match="KASBAH_SOME_SECRET is not set"):
        of_control_plane(secret_file)
    assert of_worker(secret_file) == ""


def test_an_empty_password_file_is_no_password(secret_file: Path) -> None:
    secret_file.write_text("\n")
    with pytest.raises(CommandError, match="empty"):
        of_command(secret_file)


def test_a_secrets_folder_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KASBAH_SECRETS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(env.SettingMissing, match="which is no folder"):
        env.value("SOME_SECRET")


@pytest.mark.parametrize("kind", ["bom", "crlf", "latin-1", "escape"])
def test_a_variable_of_the_environment_is_read_alike(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content, says = WRONG[kind]
    monkeypatch.setenv("KASBAH_SOME_SECRET", os.fsdecode(content))
    for read in (env.value, config.secret):
        with pytest.raises(SettingError, match=re.escape(says)) as refused:
            read("SOME_SECRET")
        assert "KASBAH_SOME_SECRET" in str(refused.value)
        assert HIDDEN not in str(refused.value)


def test_the_control_reads_the_mark_into_the_password(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the function switched off, a reader as it was before takes the mark for a part of the secret."""
    secret_file.write_bytes(WRONG["bom"][0])
    monkeypatch.setattr(settings, "line", lambda content, source: content.decode().strip())
    for read in READERS:
        assert read(secret_file) == f"\ufeff{HIDDEN}"
