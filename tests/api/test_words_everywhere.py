"""NUL, controls and what is no UTF-8: never an internal error, on no path, in no parameter, to no command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command, get_commands

from kasbah.common import commands
from tests import factories
from tests.api import world

ROOT = Path(__file__).resolve().parents[2]
OURS = sorted(name for name, app in get_commands().items() if app.startswith("kasbah."))
WORDS = ("x\0y", "\x1b[2J", "\u202e", "\x85", "\ufeff", "x\ny", "\U0010ffff")


@pytest.mark.slow
def test_no_word_in_a_query_is_an_internal_error(root: Any, admin: Any, home: factories.Household) -> None:
    document = root.get("/api/schema/?format=json").json()
    asked = 0
    for path, operations in document["paths"].items():
        url = re.sub(r"\{(\w+)\}", lambda found: home.tenant.slug if found[1] == "tenant" else world.random_id(), path)
        for parameter in operations.get("get", {}).get("parameters", ()):
            if parameter["in"] != "query":
                continue
            for word in WORDS:
                for client in (root, admin):
                    response = client.get(url, {parameter["name"]: word})
                    assert response.status_code < 500, (url, parameter["name"], word)
                    assert "\0" not in word or response.status_code in (400, 403, 404), (url, parameter["name"])
                    asked += 1
    assert asked > 500


@pytest.mark.parametrize("word", ["%00", "%1b", "%0a", "%ff", "%e2%80%ae", "%c2%85", "%ed%a0%80"])
def test_no_word_in_a_path_is_an_internal_error(root: Any, home: factories.Household, word: str) -> None:
    paths = {endpoint.path for endpoint in world.endpoints()}
    for path in [*paths, "/static/<x>", "/<x>/", "/api/<x>/"]:
        url = re.sub(r"<(\w+)>", word, path)
        if url != path:
            assert root.get(url).status_code in (301, 302, 400, 403, 404, 405), url


def test_no_word_in_a_body_is_an_internal_error(root: Any) -> None:
    for text in (rb'{"slug": "a", "name": "x\u0000y"}', rb'{"slug": "a", "name": "\ud800"}', b'{"slug": "a\xff"}',
                 rb'{"slug": "a", "x\u0000": 1}', b"\xef\xbb\xbf{}", "{}".encode("utf-16")):  # fmt: skip
        response = root.generic("POST", "/api/tenants/", text, content_type="application/json")
        assert response.status_code == 400, text


def program(*arguments: str | bytes) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(os.fsdecode, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120,
        check=False, errors="replace",
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_an_argument_that_is_not_utf8_is_a_sentence_and_2(name: str) -> None:
    ended = program("manage.py", name, b"--x=\xff\xfe")
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1), ended.stderr
    assert "argument 2" in ended.stderr
    assert "not UTF-8" in ended.stderr


FILES = {  # every command that reads a file: what it is given, and where the file goes
    "createuser": ["--email", "a@example.org", "--password-file", "FILE"],
    "createsite": ["--slug", "s", "--name", "n", "--jurisdiction", "FR", "--broker-file", "FILE"],
    "checkpolicy": ["--file", "FILE"],
    "putpolicy": ["--baseline", "--file", "FILE"],
    "registermodel": ["--folder", "FILE", "--name", "m", "--publisher", "p", "--licence", "l", "--family", "f"],
}


@pytest.mark.django_db
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["missing", "folder", "not UTF-8", "unreadable"])
def test_a_file_that_cannot_be_read_is_a_sentence(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "given"
    if kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_bytes(b"secret\xff\xfe")
    if kind == "unreadable":

        def refuse(*_: Any, **_more: Any) -> Any:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "open", refuse)
        monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(CommandError) as refused:
        call_command(name, *(str(path) if each == "FILE" else each for each in FILES[name]))
    assert "given" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_every_command_with_a_path_stands_here_or_writes_only() -> None:
    from django.core.management import load_command_class

    reading = set()
    for name in OURS:
        parser = load_command_class(get_commands()[name], name).create_parser("manage.py", name)
        if any(action.metavar in ("PATH", "FILE") or action.dest == "file" for action in parser._actions):
            reading.add(name)
    # These write, or take a file beside a log, which has tests of its own (audit).
    others = {"auditexport", "auditlog", "bootstrap_demo", "createkey", "forwarders", "simulatepolicy", "enroltoken",
              "matrix", "policytemplates"}  # fmt: skip
    assert reading - set(FILES) - others == set()


def test_the_printing_of_commands_has_one_way_out() -> None:
    """What a command prints goes through `run` or `say`; nothing writes to the terminal beside them."""
    for path in (ROOT / "platform/kasbah").glob("*/management/commands/*.py"):
        text = path.read_text(encoding="utf-8")
        assert "self.stdout" not in text, path
        assert "self.stderr" not in text, path
    assert commands.escaped("\x1b") == r"\x1b"
