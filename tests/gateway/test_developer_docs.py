"""The developer's guide: its examples run, and its tables say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from inference_worker.stream import failures
from kasbah.common import errors
from kasbah.gateway.bodies import chat, completion, embedding, tokenize
from tests.docs.test_documentation import blocks
from tests.factories import Household
from tests.gateway.stack import Stack

DOCS = Path(__file__).parents[2] / "docs" / "developer"
CODE = Path(__file__).parents[2] / "platform" / "kasbah"
BODIES = {
    "/v1/chat/completions": chat.ChatBody,
    "/v1/completions": completion.CompletionBody,
    "/v1/embeddings": embedding.EmbeddingBody,
    "/tokenize": tokenize.TokenizeBody,
}
# Refused when they are anything but their default, or seen to before the engine: they have an effect all the same.
EFFECTIVE = {"stream_options", "best_of", "suffix"}


def environment(stack: Stack, who: Household) -> dict[str, str]:
    """What the guide tells its reader to set."""
    return {
        "OPENAI_BASE_URL": f"{stack.web.url}/v1",
        "OPENAI_API_KEY": who.key_text,
        "MODEL": "mini",
        "PATH": "/usr/bin:/bin",
    }


def test_the_python_examples_run_in_order(stack: Stack, client_of: Household) -> None:
    found = [
        block.text for name in ("guide.md", "errors.md") for block in blocks(DOCS / name) if block.language == "python"
    ]
    assert len(found) >= 8
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(found)],
        env=environment(stack, client_of),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "kasbah-site north" in done.stdout
    assert "model_not_found model req_" in done.stdout


def test_the_shell_examples_run(stack: Stack, client_of: Household) -> None:
    found = [block.text for block in blocks(DOCS / "guide.md") if block.language == "sh"]
    asking = [text for text in found if text.startswith("curl")]
    assert len(asking) == 3
    assert len(found) - len(asking) == 1, "besides there is only the block that sets the variables"
    for text in asking:
        done = subprocess.run(
            ["/bin/sh", "-ec", text], env=environment(stack, client_of), capture_output=True, text=True, check=True
        )
        answer = msgspec.json.decode(done.stdout)
        assert "error" not in answer, done.stdout


def cells(name: str, heading: str) -> list[list[str]]:
    """The rows of the table below a line that starts with `heading`."""
    lines = (DOCS / name).read_text().split(heading, 1)[1].splitlines()
    rows = []
    for line in lines[lines.index(next(line for line in lines if line.startswith("| ---"))) + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


@pytest.mark.parametrize("path", BODIES)
def test_the_fields_are_those_that_are_known(path: str) -> None:
    body = BODIES[path]
    [row] = [row for row in cells("reference.md", "## Fields") if row[0] == f"`{path}`"]
    effective, ignored = (set(re.findall(r"`(\w+)`", cell)) for cell in row[1:])
    assert effective | ignored == set(body.__struct_fields__)
    assert ignored == set(body.KEPT_BACK) - EFFECTIVE


def codes_of_the_code() -> dict[str, int]:
    """Codes and statuses that the platform's own sources name."""
    found = {
        error.code: error.status
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.KasbahError)
    }
    found |= {item.code: item.status for item in vars(failures).values() if isinstance(item, failures.Failure)}
    for file in [*(CODE / "gateway").rglob("*.py"), *(CODE / "metering" / "services").glob("*.py")]:
        for match in re.finditer(
            r"\b(Invalid|NotFound|Forbidden|Unavailable|Conflict)\((?:[^()]|\([^()]*\))*?code=\"(\w+)\"",
            file.read_text(),
        ):
            found[match[2]] = getattr(errors, match[1]).status
    for file in (CODE / "serving" / "dispatch").glob("*.py"):
        for match in re.finditer(r"\.fail\((\d{3}), \"(\w+)\"", file.read_text()):
            found[match[2]] = int(match[1])
    return found


def test_the_table_of_errors_is_complete_and_true() -> None:
    table = {row[1].strip("`"): int(row[0]) for row in cells("errors.md", "# Errors")}
    source = codes_of_the_code()
    assert source["residency_denied"] == 403, "the search has lost its way"
    assert source["worker_lost"] == 503
    missing = {code: status for code, status in source.items() if table.get(code) != status}
    assert missing == {}
    text = "".join(
        file.read_text() for root in (CODE, CODE.parents[1] / "inference_worker") for file in root.rglob("*.py")
    )
    assert [code for code in table if f'"{code}"' not in text] == []


def test_every_answer_header_is_written_by_the_gateway() -> None:
    text = "".join(file.read_text() for file in [*(CODE / "gateway").rglob("*.py"), *(CODE / "metering").rglob("*.py")])
    for heading in ("## Answer headers", "## Request headers"):
        for row in cells("reference.md", heading):
            for name in re.findall(r"`([\w-]+)`", row[0]):
                known = name.lower() if not name.startswith("x-ratelimit") else name.rpartition("-")[0]
                assert known in text, name
