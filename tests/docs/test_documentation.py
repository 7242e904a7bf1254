"""The documentation says what is there: links, commands, settings and messages are compared with the code.

A block marked `sh` or `console` holds commands. Each of its lines must be one that this file understands, and is parsed
by the parser of the program that it starts; or the block stands after a comment `<!-- run: PATH -->` that names the
test which runs it.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from django.core.management import get_commands, load_command_class
from django.core.management.base import CommandError
from django.urls import Resolver404, resolve

from inference_worker import __main__ as worker_main
from infra.containers import make_secrets
from kasbah.gateway.app import PREFIXES
from tests.infra import code, stack

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / name
    for name in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],  # noqa: S607
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()
]  # fmt: skip
# Whole documents that a test runs.
RUN_ELSEWHERE = {"docs/auditor/receipts.md": "tests/residency/test_verify_receipt.py"}
# Programs that are not ours, named so that a mistyped one of ours is not taken for another's.
OTHERS = {"cat", "openssl", "pg_dump", "nvidia-smi", "sha256sum"}
COMPOSE_VERBS = {"up", "ps", "run", "exec", "stop", "logs", "build", "cp", "restart", "down"}


@dataclass(frozen=True)
class Block:
    """A fenced block: in which document, on which line, in which language, after which comment."""

    document: Path
    line: int
    language: str
    text: str
    before: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    """Every fenced block."""
    before, start, language, lines = "", 0, "", []
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if fence := re.match(r"^\s*```(\w*)", line):
            if start:
                yield Block(document, start, language, "\n".join(lines), before)
                before, start = "", 0
            else:
                start, language, lines = number, fence[1], []
        elif start:
            lines.append(line)
        elif line.strip():
            before = line.strip()


def prose(document: Path) -> str:
    """The text outside fenced blocks."""
    return re.sub(r"^\s*```.*?^\s*```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


SHELL = [block for document in DOCUMENTS for block in blocks(document) if block.language in {"sh", "console", "bash"}]


def commands(text: str) -> Iterator[list[str]]:
    """The command lines of a block: continued lines joined, prompts and comments dropped, pipes apart."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        while words:
            end = words.index("|") if "|" in words else len(words)
            yield words[:end]
            words = words[end + 1 :]


class NotUnderstood(AssertionError):
    """A command that does not exist, or that its program would refuse."""


def understand(words: list[str]) -> None:
    """Raises NotUnderstood."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    match words:
        case ["export", _] | []:
            pass
        case ["make", *rest]:
            make(rest)
        case [python, "-m", "infra.containers.make_secrets", *flags] if is_python(python):
            parsed(make_secrets.parser().parse_args, flags)
        case [python, "-m", "inference_worker", *flags] if is_python(python):
            parsed(worker_main.parser().parse_args, flags)
        case [python, "manage.py", command, *flags] if is_python(python):
            manage(command, flags)
        case ["docker", "compose", *rest]:
            compose(rest)
        case ["curl", *rest]:
            curl(rest)
        case [program, *_] if program in OTHERS:
            pass
        case _:
            raise NotUnderstood(f"nothing is known of: {shlex.join(words)}")


def is_python(program: str) -> bool:
    """Whichever way it is named."""
    return re.fullmatch(r"(.*/)?python[\d.]*", program) is not None


def parsed(parse: object, flags: list[str]) -> None:
    """Let argparse take the flags."""
    try:
        parse(flags)  # type: ignore[operator]
    except SystemExit as ended:
        if ended.code:
            raise NotUnderstood(f"refused: {shlex.join(flags)}") from ended


def make(words: list[str]) -> None:
    """The targets and variables of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, assigned, _ = word.partition("=")
        known = name in re.findall(r"\b[A-Z_]{4,}\b", makefile) if assigned else f"\n{name}:" in makefile
        if not known:
            raise NotUnderstood(f"the Makefile has no {name}")


def manage(command: str, flags: list[str]) -> None:
    """A management command, by its own parser."""
    if command == "help":
        return
    if command not in get_commands():
        raise NotUnderstood(f"there is no manage.py {command}")
    loaded = load_command_class(get_commands()[command], command)
    filled = ["0190a5d0-0000-7000-8000-000000000001" if flag == "ID" else flag for flag in flags]
    try:
        parsed(loaded.create_parser("manage.py", command).parse_args, filled)
    except CommandError as error:
        raise NotUnderstood(f"manage.py {command}: {error}") from error


def compose(words: list[str]) -> None:
    """`docker compose`: verbs that it has, services that the file has, and what runs inside them."""
    verb, *rest = words
    services = stack.load()["services"]
    if verb not in COMPOSE_VERBS:
        raise NotUnderstood(f"docker compose {verb}")
    names = positional(rest)
    if verb in {"run", "exec"}:
        service, *inside = names
        known(service, services)
        if service == "manage":
            manage(inside[0], inside[1:])
        elif inside[:1] == ["python"]:
            assert inside[1] == "health.py"
        elif inside and inside[0] not in OTHERS:
            raise NotUnderstood(shlex.join(inside))
    elif verb != "cp":
        for name in names:
            known(name, services)
    for scaled in re.findall(r"--scale (\S+)=", shlex.join(words)):
        known(scaled, services)


def known(service: str, services: dict[str, object]) -> None:
    """Raises NotUnderstood."""
    if service not in services:
        raise NotUnderstood(f"docker-compose.yml has no service {service}")


def positional(words: list[str]) -> list[str]:
    """What follows compose's own flags."""
    with_value = {"--volume", "--scale", "--tail", "--env", "--file"}
    at = 0
    while at < len(words) and words[at].startswith("-"):
        at += 2 if words[at] in with_value else 1
    return words[at:]


def curl(words: list[str]) -> None:
    """An address of ours: a route of the gateway or of Django."""
    (url,) = [word for word in words if word.startswith("http")]
    path = urlsplit(url).path
    if not path.startswith(PREFIXES):
        try:
            resolve(path)
        except Resolver404 as error:
            raise NotUnderstood(f"no route {path}") from error


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_exist(block: Block) -> None:
    named = re.fullmatch(r"<!-- run: (\S+) -->", block.before)
    runner = named[1] if named else RUN_ELSEWHERE.get(block.document.relative_to(ROOT).as_posix())
    if runner:
        assert block.document.name in (ROOT / runner).read_text(encoding="utf-8"), f"{runner} does not run it"
        return
    for words in commands(block.text):
        understand(words)


@pytest.mark.parametrize(
    "line",
    [
        "make no-such-target",
        "make demo NO_SUCH_VARIABLE=1",
        "python manage.py nosuchcommand",
        "python manage.py createtenant --no-such-flag x",
        "python manage.py createtenant --slug x",
        "python -m inference_worker --no-such-flag",
        "python3 -m infra.containers.make_secrets --no-such-flag",
        "docker compose launch",
        "docker compose up no-such-service",
        "docker compose run --rm manage nosuchcommand",
        "curl http://127.0.0.1:8080/no/such/route",
        "kasbahctl start",
    ],
)
def test_a_command_that_is_not_there_is_seen(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotUnderstood):
        understand(shlex.split(line))


def test_there_are_commands_to_check() -> None:
    assert len(SHELL) > 20


DATA = [block for document in DOCUMENTS for block in blocks(document) if block.language in {"python", "json"}]


@pytest.mark.parametrize("block", DATA, ids=str)
def test_examples_are_well_formed(block: Block) -> None:
    if block.language == "json":
        json.loads(block.text)
    else:
        ast.parse(block.text)


def anchors(document: Path) -> set[str]:
    """Anchors of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(document), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    targets += re.findall(r"^\[[^\]]+\]: (\S+)$", prose(document), re.MULTILINE)
    for target in targets:
        parts = urlsplit(target)
        if parts.scheme:
            continue
        path = (document.parent / unquote(parts.path)).resolve() if parts.path else document
        assert path.is_relative_to(ROOT), target
        assert path.exists(), target
        if parts.fragment:
            assert parts.fragment in anchors(path), target


def test_every_variable_in_the_documents_exists() -> None:
    known = code.variables_read("platform/kasbah", "inference_worker", "infra/local")
    for document in DOCUMENTS:
        mentioned = set(code.VARIABLE.findall(document.read_text(encoding="utf-8")))
        assert mentioned <= known, (document, mentioned - known)


ROW = re.compile(r"^\| `(KASBAH_[A-Z0-9_]+)` \| .+ \| (.+) \|$", re.MULTILINE)


def test_the_table_of_settings_is_complete() -> None:
    rows = ROW.findall((ROOT / "docs/operator/settings.md").read_text(encoding="utf-8"))
    names = [name for name, _ in rows]
    assert len(names) == len(set(names))
    assert set(names) == code.variables_read("platform/kasbah", "inference_worker", "infra/local")


def test_the_table_of_settings_tells_the_defaults() -> None:
    read = code.settings_read("platform/kasbah", "inference_worker")
    rows = dict(ROW.findall((ROOT / "docs/operator/settings.md").read_text(encoding="utf-8")))
    compared = 0
    for name, defaults in read.items():
        for default in defaults:
            if re.fullmatch(r"'[^']*'", default):
                wanted = f"`{ast.literal_eval(default)}`" if ast.literal_eval(default) else "empty"
                assert rows[f"KASBAH_{name}"] == wanted, name
                compared += 1
    assert compared > 10


def test_messages_in_troubleshooting_are_in_the_code() -> None:
    """What a page tells people to look for must be what the program says."""
    text = "\n".join(
        node.value
        for _, module in code.sources("platform/kasbah", "inference_worker", "infra")
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    text += (ROOT / "infra/postgres/init/10-roles.sql").read_text() + (ROOT / "docker-compose.yml").read_text()
    page = (ROOT / "docs/operator/troubleshooting.md").read_text(encoding="utf-8")
    quoted = [
        part.strip()
        for row in re.findall(r"^\| (.+?) \|", page, re.MULTILINE)
        for message in re.findall(r"`([^`]+)`", row)
        for part in message.split("...")
        if len(part.strip()) > 3
    ]
    assert len(quoted) > 25
    for part in quoted:
        assert part in text, part
